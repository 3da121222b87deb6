"""Data on their way into a training: formats, budgets, shares of systems, filters, and time spent waiting."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
import pytest
from pydantic import ValidationError

from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.errors import ConfigError, DataError, Interrupted
from dpsim.model.base import Model
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker, Prefetch
from dpsim.train.batches.sampler import Sampler, filling, in_order
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.records.running import WAITING, Clock
from dpsim.train.settings.data import FrameFilter, Size, SystemSampling, size_of
from dpsim.train.trainer import TrainResult, train

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")


@pytest.fixture
def model(settings: Settings) -> Model:
    return resolve_model(settings(), TYPE_MAP).build(0)


def run(config: TrainConfig, data: Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, **{"train_data": data / "train", "valid_data": data / "valid", **options})


def into_hdf5(folder: Path, file: Path) -> Path:
    with h5py.File(file, "w") as target:
        for system in open_dataset(folder).systems:
            group = target.create_group(system.path.name)
            group["type.raw"] = np.loadtxt(system.path / "type.raw", dtype=int, ndmin=1)
            group["type_map.raw"] = np.array((system.path / "type_map.raw").read_text().split(), "S")
            for array in system.path.glob("set.*/*.npy"):
                group[f"{array.parent.name}/{array.name}"] = np.load(array)
    return file


def into_lmdb(folder: Path, path: Path) -> Path:
    dataset = open_dataset(folder)
    names = {"energy": "energies", "forces": "forces", "virial": "virials"}

    def packed(array: Any) -> dict[str, Any]:
        value = np.asarray(array)
        return {"type": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}

    environment = lmdb.open(str(path), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        systems = [k for k, system in enumerate(dataset.systems) for _ in range(system.n_frames)]
        about = {"nframes": len(dataset), "type_map": list(dataset.type_map), "frame_system_ids": systems}
        transaction.put(b"__metadata__", msgpack.packb(about))
        for i, frame in enumerate(dataset):
            one = {"coords": frame.positions, "cells": frame.cell, "atom_types": frame.types}
            one |= {names[name]: value for name, value in frame.labels.items()}
            transaction.put(b"%012d" % i, msgpack.packb({name: packed(value) for name, value in one.items()}))
    environment.close()
    return path


@pytest.mark.parametrize("pack", [into_hdf5, into_lmdb])
def test_other_formats_train_the_same_model(
    emt: Path, tmp_path: Path, settings: Settings, pack: Callable[[Path, Path], Path]
) -> None:
    config = settings(sampling="systems", batch_size="auto:12")
    plain = run(config, emt, tmp_path / "plain")
    data = {part: pack(emt / part, tmp_path / f"{part}.packed") for part in ("train", "valid")}
    packed = train(config, tmp_path / "packed", train_data=data["train"], valid_data=[data["valid"]])
    assert state_digest(load_model(packed.last)) == state_digest(load_model(plain.last))
    assert packed.curve.read_bytes() == plain.curve.read_bytes()


def test_batches_within_a_budget_of_edges(emt: Path, model: Model) -> None:
    frames = FrameSet(emt / "train", TYPE_MAP)
    make = BatchMaker.for_model(frames, model)
    edges = [make.graph(i).n_edges for i in range(len(frames))]
    assert [make.n_edges(i) for i in range(len(frames))] == edges
    assert len(set(edges)) > 3
    limit = 3 * max(edges)
    full = filling(Size("edges", limit), frames.n_atoms, make.n_edges)
    sampler = Sampler(frames.pools("frames"), 0, **full)
    for _ in range(20):
        indices = sampler.next_batch()
        assert len(make(indices).neighborhood.center) == sum(edges[i] for i in indices) <= limit
        assert len(indices) >= 3
    assert [i for batch in in_order(range(24), **full) for i in batch] == list(range(24))


def test_edges_are_counted_and_used_without_finding_neighbours_twice(
    emt: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = BatchMaker.for_model(FrameSet(emt / "train", TYPE_MAP), model), Counter[int]()
    original = BatchMaker._make
    monkeypatch.setattr(BatchMaker, "_make", lambda self, i, times: made.update([i]) or original(self, i, times))
    assert sum(make.n_edges(i) for i in range(6)) == len(make(range(6)).neighborhood.center)
    assert set(made.values()) == {1}
    assert not make._recent


@pytest.mark.parametrize("size", ["edges:900", "max:20", "filter:6", "auto:12"])
def test_stopped_training_goes_on_with_any_batch_size(emt: Path, tmp_path: Path, settings: Settings, size: str) -> None:
    config = settings(
        batch_size=size, steps=6, sampling={"blocks": {"0:1": 3, "1:2": 1} if size != "filter:6" else {"*/4": 1}}
    )
    whole = run(config, emt, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, emt, tmp_path / "parts", stop=lambda: True)
    parts = run(config, emt, tmp_path / "parts")
    assert state_digest(load_model(parts.last)) == state_digest(load_model(whole.last))
    assert parts.curve.read_bytes() == whole.curve.read_bytes()


def test_pools_of_systems_with_shares(emt: Path) -> None:
    frames = FrameSet(emt / "train", TYPE_MAP)
    assert [s.name for s in frames.dataset.systems] == ["train/4", "train/8"]
    only = SystemSampling(weights=(0, 1))
    assert [frames.n_atoms(int(i)) for i in frames.pools(only)[0]] == [8] * 12
    assert frames.probabilities(only) == [1.0]
    both = SystemSampling(blocks={"train/8": 3, "*/4": 1})
    assert frames.probabilities(both) == [0.25, 0.75]
    assert frames.probabilities("systems") is frames.probabilities("frames") is None
    sampler = Sampler(frames.pools(both), 1, frames=1, probabilities=frames.probabilities(both))
    large = sum(frames.n_atoms(sampler.next_batch()[0]) == 8 for _ in range(1000))
    assert abs(large - 750) < 70  # five standard deviations


@pytest.fixture
def spoilt(emt_frames: MakeFrames, tmp_path: Path) -> Path:
    """Eight frames of 4 and 8 atoms: one with a long force, one with near atoms, one with atoms in one place."""
    frames = emt_frames(8)
    frames[1].labels["forces"][2] = [40, 30, 0]  # type: ignore[index]
    frames[3].positions[1] = frames[3].positions[0] + [0, 0, 0.7]
    frames[5].positions[1] = frames[5].positions[0]
    write_mixed(frames, tmp_path / "data/train", TYPE_MAP)
    write_mixed(emt_frames(4, 1), tmp_path / "data/valid", TYPE_MAP)
    return tmp_path / "data"


def test_frames_are_left_out(spoilt: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = FrameFilter(min_distance=1.0, max_force=45.0)
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        frames = FrameSet(spoilt / "train", TYPE_MAP, only=wanted)
    assert (len(frames), frames.dropped) == (5, {"min_distance": 2, "max_force": 1})
    assert "3 of 8 frames are left out: 2 by min_distance, 1 by max_force" in caplog.text
    assert sorted(frames.n_atoms(i) for i in range(5)) == [4, 4, 4, 4, 8]
    assert [frames[i].n_atoms for i in range(5)] == [frames.n_atoms(i) for i in range(5)]
    assert [len(pool) for pool in frames.pools("systems")] == [4, 1]
    assert frames.spread(2) == [0, 2]
    kept = FrameSet(spoilt / "train", TYPE_MAP, only=FrameFilter(max_force=50.001), size=Size("filter", 6))
    assert (len(kept), kept.dropped) == (4, {"max_atoms": 4, "max_force": 0})
    assert FrameSet(spoilt / "train", TYPE_MAP, size=Size("max", 6)).dropped == {}
    with pytest.raises(
        DataError, match=r"all 8 frames are left out \(8 by max_atoms\): relax frame_filter or batch_size"
    ):
        FrameSet(spoilt / "train", TYPE_MAP, size=Size("filter", 3))


def test_a_training_tells_what_is_left_out(spoilt: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"train/8/set\.000#2: atoms 0 and 1 share the position"):
        run(settings(), spoilt, tmp_path / "t")
    wanted = {"min_distance": "1.0 angstrom", "max_force": 45}
    result = run(settings(frame_filter=wanted, batch_size=2), spoilt, tmp_path / "t")
    assert result.metrics["frames"] == {"train": 5, "valid": 4}
    assert result.metrics["left_out"]["train"] == {"min_distance": 2, "max_force": 1}
    assert result.metrics["left_out"]["valid"] == {"min_distance": 0, "max_force": 0}
    with pytest.raises(ConfigError, match=r"made with other"):
        run(settings(batch_size=2, frame_filter={"min_distance": 1.0}), spoilt, tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": "edges:0"}, "no batch size: write a number of frames, auto:N"),
        ({"batch_size": "mixed:8"}, "no batch size"),
        ({"batch_size": True}, "no batch size"),
        ({"frame_filter": {}}, "give min_distance, max_force or both"),
        ({"frame_filter": {"max_force": 0}}, "greater than 0"),
        (
            {"batch_size": "edges:900", "steps": None, "epochs": 2},
            "epochs cannot be counted with batch_size: edges:900",
        ),
        ({"sampling": {"weights": [0.5]}}, "weights sum to 0.5, expected 1"),
    ],
)
def test_settings_that_are_refused(settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_epochs_of_systems_with_shares(emt: Path, tmp_path: Path, settings: Settings) -> None:
    """12 frames of each system; the one drawn from a quarter of the time needs 48 draws of 4 frames."""
    config = settings(steps=None, epochs=1, batch_size=4, sampling={"weights": [0.25, 0.75]}, log_every=100)
    assert run(config, emt, tmp_path / "t").metrics["steps"] == 12
    config = settings(steps=None, epochs=2, batch_size="max:8", log_every=100)
    assert run(config, emt, tmp_path / "u").metrics["steps"] == 2 * (12 // 2 + 12)


def test_data_without_frames_are_named(emt_frames: MakeFrames, emt: Path, tmp_path: Path, settings: Settings) -> None:
    (path,) = write_mixed([f for f in emt_frames(2) if f.n_atoms == 4], tmp_path / "none", TYPE_MAP)
    for array in path.glob("set.000/*.npy"):
        np.save(array, np.load(array)[:0])
    (path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"the validation data hold no frame \(.*none/4\), expected at least one"):
        run(settings(), emt, tmp_path / "t", valid_data=tmp_path / "none")
    with pytest.raises(DataError, match=r"the training data hold no frame"):
        run(settings(), emt, tmp_path / "t", train_data=tmp_path / "none")
    with pytest.raises(DataError, match=r"valid\* matches nothing, expected a folder"):
        run(settings(), emt, tmp_path / "t", valid_data=tmp_path / "valid*")


# --- waiting ---------------------------------------------------------------------------------------------------


def test_steps_do_not_wait_for_data_that_are_made_in_time(emt: Path, model: Model) -> None:
    """Batches that take 15 ms are ready when a step of 50 ms is done."""
    make, waited = BatchMaker.for_model(FrameSet(emt / "train", TYPE_MAP), model), []

    class Slow(BatchMaker):
        def __call__(self, indices: Any) -> Any:
            time.sleep(0.015)
            return make(indices)

    slow = Slow(make.frames, make.spec)
    with Prefetch(slow, (([i], i) for i in range(12))) as batches:
        begin = time.perf_counter()
        for batch, _ in batches:
            waited.append(time.perf_counter() - begin)
            assert set(batch.seconds) == {"reading", "neighbours", "joining"}
            assert min(batch.seconds.values()) > 0
            time.sleep(0.05)
            begin = time.perf_counter()
    assert len(waited) == 12
    assert np.median(waited[1:]) < 0.0075, "less than half of what a batch takes"


@pytest.mark.parametrize("threads", [1, 3])
def test_order_does_not_depend_on_threads(emt: Path, model: Model, threads: int) -> None:
    make = BatchMaker.for_model(FrameSet(emt / "train", TYPE_MAP), model, cache_bytes=1e9)
    plan = [([i % 24, (7 * i) % 24], i) for i in range(30)]
    with Prefetch(make, plan, threads) as batches:
        found = [(batch.sources, tag) for batch, tag in batches]
    assert [tag for _, tag in found] == list(range(30))
    assert [sources for sources, _ in found] == [make(indices).sources for indices, _ in plan]
    assert make._free == pytest.approx(1e9 - sum(one.n_bytes for one in make._kept.values()))


def test_errors_of_the_plan_reach_the_step(emt: Path, model: Model) -> None:
    make = BatchMaker.for_model(FrameSet(emt / "train", TYPE_MAP), model)

    def plan() -> Any:
        yield [0], 0
        raise DataError("frame 7 is damaged")

    with Prefetch(make, plan()) as batches:
        found = iter(batches)
        assert next(found)[1] == 0
        with pytest.raises(DataError, match="frame 7 is damaged"):
            next(found)


def test_the_log_tells_where_the_time_goes(
    emt: Path, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        metrics = run(settings(), emt, tmp_path / "t").metrics
    row = next(message for message in caplog.messages if message.startswith("step 2:"))
    own, _, ahead = row.partition("ms a step: ")[2].partition("; meanwhile, for steps to come: ")
    assert [part.rpartition(" ")[0] for part in own.split(", ")][:4] == [WAITING, "forward", "backward", "optimizer"]
    assert [part.rpartition(" ")[0] for part in ahead.split(", ")] == ["reading", "neighbours", "joining"]
    shares = metrics["time_shares"]
    assert {WAITING, "forward", "backward", "optimizer", "validation", "saving"} <= set(shares)
    assert sum(shares.values()) == pytest.approx(1)
    assert any(message.startswith(f"time: {WAITING} ") for message in caplog.messages)


def test_much_waiting_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    clock.total = {WAITING: 20.0, "forward": 80.0}
    clock.log_shares()
    assert "steps waited for data 20 % of the time" in caplog.text
    caplog.clear()
    clock.total = {WAITING: 2.0, "forward": 3.0}
    clock.log_shares()
    assert not caplog.text, "a few seconds at the beginning are nothing"


def test_sizes_are_those_of_the_settings() -> None:
    assert size_of(3) == Size("frames", 3)
    assert size_of("edges:007") == Size("edges", 7)
