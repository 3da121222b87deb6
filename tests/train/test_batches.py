"""Frames on their way to batches: graphs, labels, cache, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsim.data import Frame, write_mixed, write_npy
from dpsim.errors import DataError
from dpsim.model.potential import PotentialModel
from dpsim.train.batches.frames import FrameSet, require_labels, scan
from dpsim.train.batches.loader import BatchMaker, Prefetch
from dpsim.train.config import EnergyLossConfig, TrainConfig, resolve_model
from dpsim.train.loss.energy import EnergyLoss

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")


@pytest.fixture
def model(settings: Settings) -> PotentialModel:
    return resolve_model(settings(), TYPE_MAP).build(0)


def test_mixed_batch_is_the_average_of_single_ones(emt: Path, model: PotentialModel) -> None:
    """Frames of 4 and 8 atoms in one batch: energies and virials average, force components pool."""
    frames = FrameSet(emt / "train", None)
    make = BatchMaker(frames, model.neighbors)
    sizes = [frames.n_atoms(i) for i in range(len(frames))]
    pair = [sizes.index(4), sizes.index(8)]
    loss = EnergyLoss(EnergyLossConfig(energy=1, forces=1, virial=1), model)

    def terms(indices: list[int]) -> dict[str, float]:
        batch = make(indices)
        found = loss.terms(loss.predict(batch, training=False), batch)
        return {name: term.total.item() / term.size for name, term in found.items()}

    both, (one, two) = terms(pair), (terms([i]) for i in pair)
    assert both["energy"] == pytest.approx((one["energy"] + two["energy"]) / 2, rel=1e-12)
    assert both["virial"] == pytest.approx((one["virial"] + two["virial"]) / 2, rel=1e-12)
    assert both["forces"] == pytest.approx((4 * one["forces"] + 8 * two["forces"]) / 12, rel=1e-12)


@pytest.mark.parametrize("cache", [0.0, 20_000.0, 1e9])
def test_cache_does_not_change_batches(emt: Path, model: PotentialModel, cache: float) -> None:
    frames = FrameSet(emt / "train", None)
    plain, cached = BatchMaker(frames, model.neighbors), BatchMaker(frames, model.neighbors, cache_bytes=cache)
    for indices in ([0, 5, 7], [7, 0], [0, 5, 7]):
        a, b = plain(indices), cached(indices)
        assert all(torch.equal(x, y) for x, y in zip(a.neighborhood.tensors(), b.neighborhood.tensors(), strict=True))
        assert a.sources == b.sources
    assert bool(cached._kept) == (cache > 0)
    assert sum(sample.n_bytes for sample in cached._kept.values()) <= cache


def test_graph_holds_its_inner_list(emt: Path, model: PotentialModel) -> None:
    from dpsim.physics.neighbors import frame_graph

    frames = FrameSet(emt / "train", None)
    graph = BatchMaker(frames, model.neighbors, cache_bytes=1e9).graph(1)
    expected = frame_graph(frames[1].positions, frames[1].types, frames[1].cell, model.neighbors)
    for name in ("types", "displacements", "center", "neighbor"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(expected, name))
    np.testing.assert_array_equal(graph.inner[0].edge, expected.inner[0].edge)
    assert 0 < len(graph.inner[0].edge) < graph.n_edges


def test_labels_are_masked_by_frame(emt_frames: MakeFrames, tmp_path: Path, model: PotentialModel) -> None:
    frames = [*emt_frames(2, labels=("energy", "forces")), *emt_frames(1, 5, labels=("energy", "virial"))]
    write_mixed(frames, tmp_path / "d", TYPE_MAP)
    data = FrameSet(tmp_path / "d", None)
    batch = BatchMaker(data, model.neighbors)(range(3))
    assert batch.labels["energy"].weight is None
    assert batch.labels["virial"].size == 1
    assert batch.labels["virial"].weight is not None
    assert batch.labels["virial"].weight.sum() == 1
    assert batch.labels["forces"].size == sum(data.n_atoms(i) for i in range(3) if "forces" in data[i].labels)
    assert "atomic_energy" not in batch.labels


def test_atoms_without_energy_do_not_count(emt: Path, model: PotentialModel) -> None:
    frames = FrameSet(emt / "train", None)
    i = next(i for i in range(len(frames)) if (frames[i].types == 1).any())
    batch = BatchMaker(frames, model.neighbors, excluded=(1,))([i])
    copper = int((frames[i].types == 0).sum())
    assert batch.n_atoms.tolist() == [copper]
    assert batch.labels["forces"].size == copper
    assert batch.labels["energy"].size == 1


def test_prefetch_keeps_the_order_and_hands_errors_on(emt: Path, model: PotentialModel) -> None:
    make = BatchMaker(FrameSet(emt / "train", None), model.neighbors)
    plan = [([i], i) for i in (3, 1, 2, 0, 9)]
    with Prefetch(make, plan) as batches:
        seen = [(batch.sources, tag) for batch, tag in batches]
    assert seen == [(make([i]).sources, i) for _, i in plan]
    with Prefetch(make, [([0], 0), ([999], 1)]) as batches:
        stream = iter(batches)
        next(stream)
        with pytest.raises(IndexError, match="frame 999"):
            next(stream)


def test_types_are_matched_by_name(emt: Path) -> None:
    swapped, plain = FrameSet(emt / "train", ("Au", "Ag", "Cu")), FrameSet(emt / "train", None)
    assert swapped.type_map == ("Au", "Ag", "Cu")
    for i in range(4):
        assert [swapped.type_map[t] for t in swapped[i].types] == [plain.type_map[t] for t in plain[i].types]
    opened = FrameSet(plain.dataset, ("Au", "Ag", "Cu"))
    np.testing.assert_array_equal(opened[0].types, swapped[0].types)


def test_unknown_element_is_refused(emt: Path) -> None:
    with pytest.raises(DataError, match="element Au"):
        FrameSet(emt / "train", ("Cu",))
    with pytest.raises(DataError, match=r"set\.000#.*element Au is not in the model's type_map \(Cu\)"):
        scan(FrameSet(FrameSet(emt / "train", None).dataset, ("Cu",)))


def damaged(emt_frames: MakeFrames, folder: Path, **changes: Any) -> FrameSet:
    """Three frames of which the second is changed after writing."""
    frames = [frame for frame in emt_frames(8) if frame.n_atoms == 8][:3]
    types = np.zeros(8, dtype=np.int64)
    write_npy([dataclasses.replace(frame, types=types) for frame in frames], folder / "bad", TYPE_MAP)
    for name, change in changes.items():
        (path,) = (folder / "bad").rglob(f"{name}.npy")
        array = np.load(path)
        change(array[1])
        np.save(path, array)
    return FrameSet(folder / "bad", None)


def fill(row: np.ndarray, values: Any) -> None:
    row[: np.size(values)] = values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coord": lambda row: fill(row, np.nan)}, r"#1: coordinates of atom 0 is nan"),
        ({"force": lambda row: fill(row, np.inf)}, r"#1: forces of atom 0 is inf"),
        (
            {"coord": lambda row: fill(row, row[3:6] + 0.01)},
            r"#1: atoms 0 and 1 are 0.017\d* Å apart, expected at least 0.1",
        ),
        ({"box": lambda row: fill(row, row / 30)}, r"#1: the box"),
        ({"box": lambda row: fill(row, [400, 0, 0, 0, 40, 0, 0, 0, 0.3])}, r"#1: the box is 0.3 Å thin along vector 3"),
    ],
)
def test_damaged_frames_are_refused_with_their_place(
    emt_frames: MakeFrames, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        scan(damaged(emt_frames, tmp_path, **changes))


def test_scan_counts(emt: Path) -> None:
    frames = FrameSet(emt / "train", None)
    found = scan(frames)
    assert found.n_frames == 24
    assert found.labels == {"energy": 24, "forces": 24, "virial": 24}
    assert found.atoms.sum() == sum(frames.n_atoms(i) for i in range(24))
    assert found.compositions.sum() == found.atoms.sum()
    components = np.concatenate([frame.labels["forces"].ravel() for frame in frames.dataset])
    assert found.forces_std == pytest.approx(np.sqrt(np.mean(components**2)))
    assert scan(frames).digest == found.digest != scan(FrameSet(emt / "valid", None)).digest


def test_large_data_are_looked_at_in_part(emt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 frames of 144 atoms: 60 atoms are ten of them."""
    frames = FrameSet(emt / "train", None)
    whole = scan(frames)
    monkeypatch.setattr("dpsim.train.batches.frames.SCANNED_ATOMS", 60)
    part = scan(frames)
    assert (whole.n_frames, part.n_frames) == (24, 10)
    assert part.digest != whole.digest
    monkeypatch.setattr("dpsim.train.batches.frames.SCANNED", 3)
    assert scan(frames).n_frames == 4, "two of each system"


def test_missing_labels_are_named(emt_frames: MakeFrames, tmp_path: Path) -> None:
    write_mixed(emt_frames(2, labels=("energy",)), tmp_path / "d", TYPE_MAP)
    frames = FrameSet(tmp_path / "d", None)
    found = scan(frames)
    require_labels(frames, found, EnergyLossConfig(forces="off"), "energy", "training")
    with pytest.raises(DataError, match=r"loss\.forces: no frame of the training data has the label 'forces'"):
        require_labels(frames, found, EnergyLossConfig(), "energy", "training")
    with pytest.raises(DataError, match=r"loss\.weighted_forces: .*'forces'"):
        require_labels(frames, found, EnergyLossConfig(forces="off", weighted_forces=1), "energy", "training")


def test_evenly_spaced_frames(emt: Path) -> None:
    frames = FrameSet(emt / "train", None)
    assert frames.spread(None) == list(range(24))
    assert frames.spread(3) == [0, 8, 16]
    assert frames.spread(99) == list(range(24))


def test_pools(emt: Path) -> None:
    frames = FrameSet(emt / "train", None)
    assert [pool.tolist() for pool in frames.pools("frames")] == [list(range(24))]
    by_system = frames.pools("systems")
    assert [len(pool) for pool in by_system] == [system.n_frames for system in frames.dataset.systems]
    assert np.concatenate(by_system).tolist() == list(range(24))


def test_frame_is_a_frame(emt: Path) -> None:
    assert isinstance(FrameSet(emt / "train", None)[0], Frame)
