"""The training loop: what it writes, learns, refuses, and how it goes on."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError, DataError, Interrupted, ModelError, SetupError, StageError
from dpsim.model.checkpoint import load_model, read_header, state_digest
from dpsim.train import trainer
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import EnergyLossConfig, TrainConfig
from dpsim.train.loss.energy import EnergyLoss
from dpsim.train.records.curve import columns
from dpsim.train.records.state import checkpoints, load_checkpoint_model, load_state
from dpsim.train.session import locked
from dpsim.train.trainer import TrainResult, train

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")
COLUMNS = columns(("energy", "forces", "virial"))


def run(config: TrainConfig, emt: Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, **{"train_data": emt / "train", "valid_data": emt / "valid", **options})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "lcurve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(a: Path, b: Path) -> bool:
    """Whether two training folders hold the same models and the same curve, bit for bit."""
    models = all(
        state_digest(load_model(a / f"{name}.safetensors")) == state_digest(load_model(b / f"{name}.safetensors"))
        for name in ("best", "last")
    )
    return models and (a / "lcurve.csv").read_bytes() == (b / "lcurve.csv").read_bytes()


def test_files(emt: Path, tmp_path: Path, settings: Settings) -> None:
    result = run(settings(keep_checkpoints=2), emt, tmp_path / "t")
    names = {path.name for path in (tmp_path / "t").iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "step-6.ckpt", "step-8.ckpt", "lcurve.csv", "metrics.json", ".lock",
    }  # fmt: skip
    table = rows(tmp_path / "t")
    assert tuple(table[0]) == COLUMNS
    assert [int(row["step"]) for row in table] == [1, 2, 4, 6, 8]
    assert [bool(row["rmse_forces_valid"]) for row in table] == [False, False, True, False, True]
    assert all(float(row[name]) > 0 for row in table for name in COLUMNS[1:6])
    assert result.metrics == json.loads(result.metrics_path.read_text())
    assert result.metrics["frames"] == {"train": 24, "valid": 6}
    header = read_header(result.best)
    assert header["provenance"]["step"] == result.metrics["best"]["step"]
    assert header["provenance"]["metric"] == result.metrics["best"]["metric"]
    assert state_digest(load_checkpoint_model(result.checkpoint)) == state_digest(load_model(result.last))


def test_validation_errors_are_those_of_the_model(emt: Path, tmp_path: Path, settings: Settings) -> None:
    """The last row equals errors worked out frame by frame from the model that was written."""
    result = run(settings(), emt, tmp_path / "t")
    model, frames = load_model(result.last), FrameSet(emt / "valid", TYPE_MAP)
    loss = EnergyLoss(EnergyLossConfig(), model)
    sums: dict[str, list[float]] = {}
    for i in range(len(frames)):
        batch = BatchMaker(frames, model.neighbors)([i])
        for name, term in loss.errors(loss.predict(batch, training=False), batch).items():
            total = sums.setdefault(name, [0.0, 0])
            total[0] += term.total.item()
            total[1] += term.size
    last = rows(tmp_path / "t")[-1]
    for name, (total, size) in sums.items():
        assert float(last[f"rmse_{name}_valid"]) == pytest.approx(np.sqrt(total / size), rel=1e-6)


def test_it_learns(emt_frames: MakeFrames, emt: Path, tmp_path: Path, settings: Settings) -> None:
    """Errors end far below those of the constant guess, on frames that were not trained on."""
    config = settings(
        model={
            "preset": "dpa3-tiny", "cutoff": 4.0,
            "descriptor": {"repflow": {"n_dim": 16, "e_dim": 12, "a_dim": 8}}, "fitting": {"neuron": [24, 24]},
        },
        steps=150, batch_size=4, learning_rate={"start": 5e-3, "stop": 1e-4, "type": "cosine"}, validate_every=50,
        loss={"energy": [0.2, 5], "forces": [100, 50], "virial": [0.2, 5]}, checkpoint_every=1000,
    )  # fmt: skip
    write_mixed(emt_frames(40, 7), tmp_path / "train", TYPE_MAP)
    metrics = run(config, emt, tmp_path / "t", train_data=tmp_path / "train").metrics
    frames = FrameSet(emt / "valid", None).dataset
    rms = np.sqrt(np.mean(np.concatenate([frame.labels["forces"].ravel() for frame in frames]) ** 2))
    assert metrics["best"]["rmse_forces"] < 0.45 * rms
    assert metrics["best"]["rmse_energy"] < 0.05


def test_energy_bias_is_logged_and_used(emt: Path, tmp_path: Path, settings: Settings, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        result = run(settings(steps=1), emt, tmp_path / "t", type_map=("Ag", "Au", "Cu"))
    (line,) = [record.message for record in caplog.records if "energy bias" in record.message]
    assert "Ag none (in none of these frames)" in line
    bias = result.metrics["energy_bias"]
    assert bias["Ag"] == 0.0
    frames = FrameSet(emt / "train", ("Ag", "Au", "Cu"))
    a = np.array([np.bincount(frame.types, minlength=3) for frame in (frames[i] for i in range(24))])
    y = np.array([float(frames[i].labels["energy"]) for i in range(24)])
    expected = np.linalg.lstsq(a.astype(float), y, rcond=None)[0]
    np.testing.assert_allclose(list(bias.values()), expected, atol=1e-10)


def test_environment_scales_come_from_the_data_if_asked(emt: Path, tmp_path: Path, settings: Settings) -> None:
    model = settings().model_dump(mode="json")["model"]
    model["descriptor"]["repflow"]["fix_stat_std"] = 0.0
    stddev = load_model(run(settings(model=model, steps=1), emt, tmp_path / "t").last).descriptor.environment.stddev
    assert stddev.shape == (2, 4)
    assert (stddev > 0.01).all()
    assert not (stddev == 0.3).any()
    assert (stddev[:, 1] == stddev[:, 3]).all()


def test_best_without_validation_data(emt: Path, tmp_path: Path, settings: Settings) -> None:
    result = run(settings(), emt, tmp_path / "t", valid_data=None)
    assert result.metrics["best"]["step"] in (4, 8)
    assert all(row["rmse_energy_valid"] == "" for row in rows(tmp_path / "t"))


@pytest.mark.parametrize("batch_size", [3, "auto:20"])
@pytest.mark.parametrize("valid", [True, False])
def test_stopped_training_goes_on_bit_for_bit(
    emt: Path, tmp_path: Path, settings: Settings, batch_size: Any, valid: bool
) -> None:
    config = settings(batch_size=batch_size, log_every=3, sampling="systems")
    options = {} if valid else {"valid_data": None}
    run(config, emt, tmp_path / "whole", **options)
    steps = iter([False, False, True, False, True])
    for _ in range(2):
        with pytest.raises(Interrupted, match=r"stopped at step \d of 8; its state is in .*: run again") as stopped:
            run(config, emt, tmp_path / "parts", stop=lambda: next(steps), **options)
    assert stopped.value.exit_code == 75
    run(config, emt, tmp_path / "parts", **options)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_restart_from_an_older_checkpoint(emt: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings(keep_checkpoints=9)
    run(config, emt, tmp_path / "t")
    expected = (tmp_path / "t" / "lcurve.csv").read_bytes()
    digest = state_digest(load_model(tmp_path / "t" / "last.safetensors"))
    (tmp_path / "t" / "last.safetensors").unlink()
    run(config, emt, tmp_path / "t", restart=tmp_path / "t" / "step-4.ckpt")
    assert (tmp_path / "t" / "lcurve.csv").read_bytes() == expected
    assert state_digest(load_model(tmp_path / "t" / "last.safetensors")) == digest
    run(config, emt, tmp_path / "other", restart=tmp_path / "t" / "step-4.ckpt")
    assert state_digest(load_model(tmp_path / "other" / "last.safetensors")) == digest


def test_complete_training_is_left_alone_and_more_steps_continue_it(
    emt: Path, tmp_path: Path, settings: Settings, caplog: Any
) -> None:
    run(settings(), emt, tmp_path / "t")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "t").glob("*.*t*") if path.suffix != ".json"}
    run(settings(), emt, tmp_path / "t")
    assert before == {name: (tmp_path / "t" / name).stat().st_mtime_ns for name in before}
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        run(settings(steps=12), emt, tmp_path / "t")
    assert "steps: 8 became 12: the learning rate now decays over the new total" in caplog.text
    assert [int(row["step"]) for row in rows(tmp_path / "t")] == [1, 2, 4, 6, 8, 10, 12]
    with pytest.raises(ConfigError, match=r"past the last step \(steps: 8\): raise steps"):
        run(settings(), emt, tmp_path / "t")


def test_another_training_in_the_folder_is_refused(emt: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings()
    run(config, emt, tmp_path / "t")
    with pytest.raises(ConfigError, match=r"other settings .*seed: 1 became 2.*train into another folder"):
        run(settings(seed=2), emt, tmp_path / "t")
    with pytest.raises(ConfigError, match="other training data"):
        run(config, emt, tmp_path / "t", train_data=emt / "valid")
    model = config.model_dump(mode="json")["model"]
    model["fitting"]["neuron"] = [9, 8]
    with pytest.raises(ConfigError, match=r"holds another model \(fitting\.neuron: \[9, 8\] here, \[8, 8\] there\)"):
        run(settings(model=model), emt, tmp_path / "t")
    assert len(rows(tmp_path / "t")) == 5


def test_folder_is_locked(emt: Path, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "t").mkdir()
    message = rf"being trained into by process {os.getpid()} on"
    with locked(tmp_path / "t"), pytest.raises(StageError, match=message):
        run(settings(), emt, tmp_path / "t")
    run(settings(steps=1), emt, tmp_path / "t")


def test_sigterm_saves_and_stops(emt: Path, tmp_path: Path, settings: Settings) -> None:
    def kill(done: int, total: int, message: str, **values: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(settings(steps=500, checkpoint_every=499), emt, tmp_path / "t", progress=kill)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [step for step, _ in checkpoints(tmp_path / "t")] == [1]


def test_progress(emt: Path, tmp_path: Path, settings: Settings) -> None:
    calls: list[tuple[int, int, str, dict[str, float]]] = []
    run(
        settings(),
        emt,
        tmp_path / "t",
        progress=lambda done, total, text, **values: calls.append((done, total, text, values)),
    )
    done, total, text, values = calls[-1]
    assert (done, total, text) == (8, 8, "step 8/8")
    assert values["seconds_left"] == 0.0
    assert values["steps_per_second"] > 0
    assert {"loss", "learning_rate", "rmse_forces_train", "rmse_forces_valid"} <= values.keys()


def test_log_splits_the_time_of_a_step(emt: Path, tmp_path: Path, settings: Settings, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        run(settings(), emt, tmp_path / "t")
    lines = [record.message for record in caplog.records if record.message.startswith("step 8:")]
    assert len(lines) == 1
    assert all(part in lines[0] for part in ("data", "neighbours", "forward", "backward", "optimizer", "validation"))


def test_loss_that_is_not_finite_stops_before_it_spoils_anything(emt: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings(steps=400, learning_rate={"start": 1e30, "stop": 1e30}, validate_every=400, gradient_max_norm=0)
    with pytest.raises(StageError, match=r"step \d+: the loss is .*expected finite numbers; the batch holds .*#\d+"):
        run(config, emt, tmp_path / "t")
    for _, path in checkpoints(tmp_path / "t"):
        assert all(torch.isfinite(t).all() for t in load_state(path).model.values())


def test_start_from_a_model(emt: Path, tmp_path: Path, settings: Settings) -> None:
    first = run(settings(), emt, tmp_path / "a")
    second = run(settings(model=None, steps=1), emt, tmp_path / "b", init_model=first.last)
    bias = load_model(first.last).out_bias
    assert torch.equal(load_model(second.last).out_bias, bias)
    error = float(rows(tmp_path / "b")[0]["rmse_energy_train"])
    assert error < 5 * float(rows(tmp_path / "a")[-1]["rmse_energy_train"]) + 1e-3
    from_checkpoint = run(settings(steps=1), emt, tmp_path / "c", init_model=first.checkpoint)
    assert state_digest(load_model(from_checkpoint.last)) == state_digest(load_model(second.last))
    single = run(settings(model=None, steps=1, precision="float32"), emt, tmp_path / "d", init_model=first.last)
    assert load_model(single.last).precision == "float32"
    declared = settings(steps=1)
    mixed = declared.model.fitting.model_copy(update={"precision": "float32"})
    declared = declared.model_copy(update={"model": declared.model.model_copy(update={"fitting": mixed})})
    as_declared = load_model(run(declared, emt, tmp_path / "e", init_model=first.last).last)
    assert (as_declared.config.descriptor.precision, as_declared.config.fitting.precision) == ("float64", "float32")
    with pytest.raises(ConfigError, match="other initial model"):
        run(settings(model=None, steps=1), emt, tmp_path / "b", init_model=second.last)


def test_start_from_a_model_that_does_not_fit(emt: Path, tmp_path: Path, settings: Settings) -> None:
    first = run(settings(steps=1), emt, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"differs from `model` \("):
        run(settings(model="dpa3-tiny"), emt, tmp_path / "b", init_model=first.last)
    with pytest.raises(ConfigError, match="type_map has Ag, but the model to go on from knows Cu Au"):
        run(settings(model=None), emt, tmp_path / "b", init_model=first.last, type_map=("Cu", "Ag"))
    with pytest.raises(ModelError, match="no such model file"):
        run(settings(model=None), emt, tmp_path / "b", init_model=tmp_path / "none.safetensors")


def test_labels_and_data_are_checked_first(
    emt_frames: MakeFrames, emt: Path, tmp_path: Path, settings: Settings
) -> None:
    write_mixed(emt_frames(3, labels=("energy",)), tmp_path / "e", TYPE_MAP)
    write_mixed(emt_frames(3, labels=("virial",)), tmp_path / "v", TYPE_MAP)
    with pytest.raises(DataError, match=r"loss\.forces: no frame of the training data"):
        run(settings(), emt, tmp_path / "t", train_data=tmp_path / "e")
    with pytest.raises(DataError, match="no frame of the validation data has one of the labels energy, forces"):
        run(settings(loss={}), emt, tmp_path / "t", valid_data=tmp_path / "v")
    with pytest.raises(DataError, match="does not exist"):
        run(settings(), emt, tmp_path / "t", train_data=tmp_path / "nothing")
    assert not (tmp_path / "t").exists()
    run(settings(loss={"forces": "off", "energy": 1}, steps=1), emt, tmp_path / "t", train_data=tmp_path / "e")


def test_frames_with_and_without_labels_train_together(
    emt_frames: MakeFrames, emt: Path, tmp_path: Path, settings: Settings
) -> None:
    write_mixed([*emt_frames(4, labels=("energy",)), *emt_frames(4, 3, labels=("forces",))], tmp_path / "m", TYPE_MAP)
    run(settings(loss={}, batch_size=1), emt, tmp_path / "t", train_data=tmp_path / "m")
    assert all(np.isfinite(float(row["loss"])) for row in rows(tmp_path / "t"))


def test_folder_and_device_that_cannot_be_used(
    tmp_path: Path, emt: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"file cannot be trained into: .*choose a folder"):
        run(settings(), emt, tmp_path / "file")
    with pytest.raises(ConfigError, match="device 'gpu' is unknown: use auto, cpu or cuda"):
        run(settings(), emt, tmp_path / "t", device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match="torch sees no GPU"):
        run(settings(), emt, tmp_path / "t", device="cuda")


def test_full_disk(tmp_path: Path, emt: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    config = settings()
    run(config, emt, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(StageError, match=r"step 2: the state cannot be written .*No space left.*run again"):
            run(config, emt, tmp_path / "t")
    assert not list((tmp_path / "t").glob(".step*"))
    run(config, emt, tmp_path / "t")
    assert same(tmp_path / "whole", tmp_path / "t")


def test_damaged_checkpoint(tmp_path: Path, emt: Path, settings: Settings) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "step-2.ckpt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelError, match=r"step-2\.ckpt is not a checkpoint of dpsim"):
        run(settings(), emt, tmp_path / "t")
    with pytest.raises(ModelError, match="there is no such checkpoint"):
        run(settings(), emt, tmp_path / "u", restart=tmp_path / "none.ckpt")


def test_last_model_after_a_full_disk(
    tmp_path: Path, emt: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the last step is there, and its model is not."""
    config = settings()
    run(config, emt, tmp_path / "whole")
    save = trainer.save_model

    def full(model: Any, path: Path, facts: dict[str, Any]) -> Path:
        if facts["step"] == config.steps:
            raise OSError(28, "No space left on device")
        return save(model, path, facts)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_model", full)
        with pytest.raises(StageError, match=r"step 8: the state cannot be written .*No space left.*run again"):
            run(config, emt, tmp_path / "t")
    run(config, emt, tmp_path / "t")
    assert same(tmp_path / "whole", tmp_path / "t")


def test_restart_again_goes_on(tmp_path: Path, emt: Path, settings: Settings) -> None:
    """The same call after a stop does not begin at the checkpoint again, whether that is still there or not."""
    longer = settings(steps=10)
    start = run(settings(steps=4), emt, tmp_path / "a").checkpoint
    run(longer, emt, tmp_path / "whole", restart=start)
    with pytest.raises(Interrupted):
        run(longer, emt, tmp_path / "b", restart=start, stop=lambda: bool(checkpoints(tmp_path / "b")))
    assert checkpoints(tmp_path / "b")[-1][0] == 7
    with pytest.raises(Interrupted):
        run(longer, emt, tmp_path / "b", restart=start, stop=lambda: True)
    assert checkpoints(tmp_path / "b")[-1][0] == 8
    start.unlink()
    run(longer, emt, tmp_path / "b", restart=start)
    assert state_digest(load_model(tmp_path / "b" / "last.safetensors")) == state_digest(
        load_model(tmp_path / "whole" / "last.safetensors")
    )


def test_restart_elsewhere_brings_the_best_model(tmp_path: Path, emt: Path, settings: Settings) -> None:
    bad = settings(steps=8, learning_rate={"start": 0.5, "stop": 0.5})
    first = run(bad.model_copy(update={"steps": 4}), emt, tmp_path / "a", stop=lambda: False)
    assert first.metrics["best"]["step"] == 4
    result = run(bad, emt, tmp_path / "b", restart=first.checkpoint)
    assert read_header(result.best)["provenance"]["step"] == result.metrics["best"]["step"]
    first.best.unlink()
    result = run(bad, emt, tmp_path / "c", restart=first.checkpoint)
    assert read_header(result.best)["provenance"]["step"] == result.metrics["best"]["step"] == 8
