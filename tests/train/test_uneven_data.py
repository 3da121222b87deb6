"""Data of which some frames or systems lack what others have: rare elements, rare labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError
from dpsim.model.checkpoint import load_any, read_header
from dpsim.train.batches.frames import FrameSet, require_labels, scan
from dpsim.train.config import EnergyLossConfig, TrainConfig
from dpsim.train.start.bias import change_bias
from dpsim.train.trainer import train

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")
PART = {
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [40, 40], "neuron": [4], "axis_neuron": 2},
    "fitting": {"neuron": [4]},
}  # fmt: skip


def apart(frames: Sequence[Frame], folder: Path) -> Path:
    """Write each frame as a system of its own, so that their order stays."""
    for k, frame in enumerate(frames):
        write_mixed([frame], folder / f"{k:02d}", TYPE_MAP)
    return folder


def with_labels(frame: Frame, **labels: Any) -> Frame:
    return Frame(frame.positions, frame.types, frame.cell, labels)


# --- rare elements ------------------------------------------------------------------------------------------------


def pure(frames: Sequence[Frame], kind: int) -> list[Frame]:
    """The same frames of one element."""
    return [Frame(f.positions, np.full_like(f.types, kind), f.cell, f.labels) for f in frames]


def test_a_small_system_of_large_data_is_looked_at(
    emt_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [with_labels(f, energy=f.labels["energy"]) for f in pure(emt_frames(24), 0)]
    write_mixed(many, tmp_path / "d" / "many", TYPE_MAP)
    write_mixed(pure(emt_frames(2), 1), tmp_path / "d" / "two", TYPE_MAP)
    monkeypatch.setattr("dpsim.train.batches.frames.SCANNED", 5)
    frames = FrameSet(tmp_path / "d", None)
    found = scan(frames)
    assert found.n_frames < 10
    assert (found.atoms > 0).all()
    require_labels(frames, found, EnergyLossConfig(), "energy", "training")


def test_frames_of_a_rare_element_are_always_among_those_of_statistics(emt_frames: MakeFrames, tmp_path: Path) -> None:
    base = emt_frames(48)[1::2]  # of one size, so that they are one system
    mixed = [*pure(base[:-1], 0), *pure(base[-1:], 1)]
    write_mixed(mixed, tmp_path / "d", TYPE_MAP)
    frames = FrameSet(tmp_path / "d", None)
    assert len(frames.dataset.systems) == 1
    assert frames.sample(4) == [0, 6, 12, 18]
    found = scan(frames)
    assert found.holding.tolist() == [23, 1]
    assert found.examples[1] == (23,)
    assert 23 in found.sample(frames, 4)


# --- rare labels --------------------------------------------------------------------------------------------------


@pytest.fixture
def rare_virial(emt_frames: MakeFrames, tmp_path: Path) -> Path:
    """12 systems of one frame, the fourth of which alone has a virial."""
    rows = [
        f if k == 3 else with_labels(f, energy=f.labels["energy"], forces=f.labels["forces"])
        for k, f in enumerate(emt_frames(12, 1))
    ]
    return apart(rows, tmp_path / "rare")


def test_windows_without_a_label_are_not_compared(rare_virial: Path, tmp_path: Path, settings: Settings) -> None:
    """Without validation data the loss of a window lacks the rare term, and would be taken for the best."""
    loss = {"energy": 0.001, "forces": 0.001, "virial": 1000.0}
    config = settings(batch_size=1, steps=24, validate_every=2, loss=loss)
    best = train(config, tmp_path / "t", train_data=rare_virial).metrics["best"]
    assert best["metric"] > 1.0
    assert "rmse_virial" in best


def test_metric_of_a_rare_label(rare_virial: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings(batch_size=1, steps=12, validate_every=1, validation_metric="virial:rmse")
    assert train(config, tmp_path / "t", train_data=rare_virial).metrics["best"]["metric"] > 0
    config = settings(batch_size=1, steps=2, validate_every=2, validation_frames=2, validation_metric="virial:rmse")
    best = train(config, tmp_path / "v", train_data=rare_virial, valid_data=rare_virial).metrics["best"]
    assert best["metric"] == best["rmse_virial"] > 0


def test_no_label_before_the_first_check(emt_frames: MakeFrames, tmp_path: Path, settings: Settings) -> None:
    rows = [f if k == 3 else with_labels(f) for k, f in enumerate(emt_frames(12, 1))]
    data = apart(rows, tmp_path / "d")
    loss = {"energy": 1.0, "forces": "off"}
    config = settings(batch_size=1, steps=12, validate_every=1, loss=loss)
    result = train(config, tmp_path / "t", train_data=data)
    assert result.metrics["best"]["metric"] > 0
    config = settings(batch_size=1, steps=1, loss=loss)  # nothing to tell the best by
    assert 3 not in _drawn(config, data)
    result = train(config, tmp_path / "u", train_data=data)
    assert json.loads(result.metrics_path.read_text(), parse_constant=pytest.fail)["best"]["metric"] is None
    assert read_header(result.best)["provenance"]["step"] == 1


def _drawn(config: TrainConfig, data: Path) -> list[int]:
    from dpsim.train.batches.sampler import Sampler, filling
    from dpsim.train.settings.data import size_of

    frames = FrameSet(data, None)
    size = filling(size_of(config.batch_size), frames.n_atoms, frames.n_atoms)
    return Sampler(frames.pools("frames"), config.seed, n_atoms=frames.n_atoms, **size).next_batch()


def test_bias_after_training_is_refused_before_it(emt_frames: MakeFrames, tmp_path: Path, settings: Settings) -> None:
    write_mixed(emt_frames(4, labels=("forces",)), tmp_path / "d", TYPE_MAP)
    config = settings(loss={"energy": "off"}, change_bias_after_training=True)
    with pytest.raises(ConfigError, match=r"change_bias_after_training: no frame of the training data has a label"):
        train(config, tmp_path / "t", train_data=tmp_path / "d")
    assert not list((tmp_path / "t").glob("*.ckpt"))
    off = settings(loss={"energy": "off"})
    result = train(off, tmp_path / "t", train_data=tmp_path / "d")
    assert result.metrics["step"] == off.steps


@pytest.mark.parametrize("values", [[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [[1.0, 1.0]] * 3])
def test_a_property_that_is_the_same_everywhere(
    emt_frames: MakeFrames, tmp_path: Path, settings: Settings, values: list[list[float]], caplog: Any
) -> None:
    rows = [with_labels(f, property=np.array(v)) for f, v in zip(emt_frames(3), values, strict=True)]
    write_mixed(rows, tmp_path / "d", TYPE_MAP)
    fitting = {"type": "property", "property_name": "property", "task_dim": 2, "intensive": True, "neuron": [4]}
    config = settings(model={**PART, "fitting": fitting}, steps=2, loss={"type": "property", "function": "mae"})
    result = train(config, tmp_path / "t", train_data=tmp_path / "d")
    assert np.isfinite(result.metrics["best"]["metric"])
    assert "the labels leave no deviation of component" in caplog.text


# --- what the model is given --------------------------------------------------------------------------------------


def test_inputs_and_labels_are_in_the_digest(emt_frames: MakeFrames, tmp_path: Path) -> None:
    one = emt_frames(1)[0]
    rows = {
        "as it is": one.labels,
        "temperature": {**one.labels, "fparam": np.array([1.0])},
        "kelvin": {**one.labels, "fparam": np.array([11604.5])},
        "forces": {**one.labels, "forces": 2 * one.labels["forces"]},
    }
    digests = []
    for name, labels in rows.items():
        write_mixed([with_labels(one, **labels)], tmp_path / name, TYPE_MAP)
        digests.append(scan(FrameSet(tmp_path / name, None)).digest)
    assert len(set(digests)) == len(rows)


# --- change of the bias -------------------------------------------------------------------------------------------


def test_given_energies_stay_in_every_file(emt: Path, tmp_path: Path, settings: Settings) -> None:
    given = {"preset_out_bias": {"Au": -3.0}}
    single = train(settings(model={**PART, **given}, steps=2), tmp_path / "s", train_data=emt / "train")
    both = {"a": emt / "train", "b": emt / "train"}
    heads = settings(model=PART, heads={"a": {**given, "aliases": ["other"]}, "b": {}}, steps=2)
    several = train(heads, tmp_path / "m", train_data=both, type_map=TYPE_MAP)
    for number, (path, head) in enumerate(
        [(single.last, None), (single.checkpoint, None), (several.last, "a"), (several.checkpoint, "other")]
    ):
        target, change = change_bias(path, emt / "train", tmp_path / f"{number}.safetensors", head=head)
        assert change.after[1] == pytest.approx(-3.0, abs=1e-12)
        assert set(getattr(load_any(target), "members", {})) == (set() if head is None else {"a", "b"})


def test_bias_of_spin_models_is_set_anew(emt_frames: MakeFrames, tmp_path: Path, settings: Settings) -> None:
    rows = [
        with_labels(f, **f.labels, spin=np.ones((f.n_atoms, 3)), magnetic_forces=np.ones((f.n_atoms, 3)))
        for f in emt_frames(6)
    ]
    write_mixed(rows, tmp_path / "d", TYPE_MAP)
    descriptor = {"type": "dpa1", "rcut": 4.0, "rcut_smth": 3.0, "sel": 80, "neuron": [4], "attn_layer": 0}
    model = {"type": "spin", "virtual_scale": {"Cu": 0.3}, "model": {**PART, "descriptor": descriptor}}
    config = settings(model=model, steps=1, loss={"magnetic_forces": 1.0})
    result = train(config, tmp_path / "t", train_data=tmp_path / "d")
    _, change = change_bias(result.last, tmp_path / "d", tmp_path / "set.safetensors", mode="set")
    assert np.isfinite(change.after).all()
