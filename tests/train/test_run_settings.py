"""Epochs, averages, the choice of the best model, limits of time, kept statistics, and what the machine must have."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError, DataError, Interrupted, SetupError
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.ops import library
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.loss import make_loss
from dpsim.train.optimizers.arithmetic import check_products, tf32_products
from dpsim.train.records.running import Clock
from dpsim.train.records.state import load_checkpoint_model, load_state
from dpsim.train.session import StopSignal
from dpsim.train.start import setup as preparation
from dpsim.train.start.length import epoch_draws, steps_of_epochs, steps_on, with_steps
from dpsim.train.step import make_step
from dpsim.train.trainer import TrainResult, train

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")


def run(config: TrainConfig, emt: Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, **{"train_data": emt / "train", "valid_data": emt / "valid", **options})


def same(a: TrainResult, b: TrainResult) -> bool:
    models = (
        state_digest(load_model(x)) == state_digest(load_model(y)) for x, y in ((a.best, b.best), (a.last, b.last))
    )
    return all(models) and a.curve.read_bytes() == b.curve.read_bytes()


def test_steps_of_epochs() -> None:
    assert steps_of_epochs(1.0, 5) == 5
    assert steps_of_epochs(2.5, 6) == 15
    assert steps_of_epochs(0.01, 6) == 1
    assert epoch_draws([24]) == 24
    assert epoch_draws([10, 30]) == 60
    assert epoch_draws([10, 30], [0.1, 0.9]) == 100
    assert epoch_draws([10, 30, 5], [0.25, 0.75, 0.0]) == 40


def test_epochs_are_counted_in_the_data(emt: Path, settings: Settings) -> None:
    frames = FrameSet(emt / "train", TYPE_MAP)

    def steps(**changes: Any) -> int:
        return with_steps(settings(steps=None, **changes), frames).total_steps

    assert steps(epochs=3, batch_size=5) == 15
    assert steps(epochs=3, batch_size=5, accumulate=2) == 9
    assert steps(epochs=1, batch_size=1000) == 1
    total = sum(frames[i].n_atoms for i in range(len(frames)))
    assert steps(epochs=2, batch_size="auto:8") == pytest.approx(2 * total / 10, rel=0.3)
    config = settings(steps=None, epochs=3, batch_size=5)
    assert steps_on(config, emt / "train") == 15
    with pytest.raises(ConfigError, match=r"depends on the data"):
        _ = config.total_steps


def test_warm_up_longer_than_the_epochs(emt: Path, settings: Settings) -> None:
    config = settings(steps=None, epochs=1, batch_size=6, learning_rate={"warmup_steps": 9})
    with pytest.raises(ConfigError, match=r"epochs: 1 are 4 steps: .*warmup_steps \(9\) must not exceed steps \(4\)"):
        with_steps(config, FrameSet(emt / "train", TYPE_MAP))


def test_training_by_epochs_is_that_of_its_steps(emt: Path, tmp_path: Path, settings: Settings) -> None:
    by_steps = run(settings(steps=8, batch_size=6), emt, tmp_path / "steps")
    first = run(settings(steps=None, epochs=1, batch_size=6), emt, tmp_path / "epochs")
    assert first.metrics["steps"] == 4
    raised = run(settings(steps=None, epochs=2, batch_size=6), emt, tmp_path / "epochs")
    assert raised.metrics["steps"] == by_steps.metrics["steps"] == 8
    again = run(settings(steps=None, epochs=2, batch_size=6), emt, tmp_path / "again")
    assert same(again, by_steps)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "steps, or epochs instead of it, is missing"),
        ({"steps": 3, "epochs": 2}, r"steps \(3\) and epochs \(2\) exclude each other"),
        ({"steps": 3, "ema": 1.0}, "less than 1"),
        ({"steps": 3, "validation_metric": "energy"}, "String should match"),
        ({"steps": 3, "matrix_products": "fp16"}, "'full', 'tf32' or 'bf16'"),
        ({"steps": 3, "walltime": "-1 h"}, "greater than 0"),
    ],
)
def test_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**declared)


def test_averages_of_the_parameters(emt: Path, tmp_path: Path, settings: Settings) -> None:
    """The model files hold the averages of the parameters that the checkpoints of all steps hold."""
    config = settings(ema=0.6, steps=9, checkpoint_every=1, keep_checkpoints=99, validate_every=9)
    result = run(config, emt, tmp_path)
    average = {name: p.detach() for name, p in resolve_model(config, TYPE_MAP).build(config.seed).named_parameters()}
    for step in range(1, 10):
        now = load_state(tmp_path / f"step-{step}.ckpt").model
        decay = min(0.6, step / (9 + step))
        average = {name: decay * value + (1 - decay) * now[name] for name, value in average.items()}
    last = dict(load_model(result.last).named_parameters())
    for name, value in average.items():
        np.testing.assert_allclose(last[name].detach(), value, rtol=0, atol=1e-14)
    assert not all(torch.equal(last[name], tensor) for name, tensor in now.items() if name in last)
    assert state_digest(load_checkpoint_model(result.checkpoint)) == state_digest(load_model(result.last))


def test_averages_are_validated_and_go_on(emt: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings(ema=0.9, precision="float32")
    whole = run(config, emt, tmp_path / "whole")
    plain = run(settings(precision="float32"), emt, tmp_path / "plain")
    calls = iter([False, False, True])
    with pytest.raises(Interrupted):
        run(config, emt, tmp_path / "part", stop=lambda: next(calls))
    assert same(run(config, emt, tmp_path / "part"), whole)
    ours, theirs = (load_state(r.checkpoint) for r in (whole, plain))
    assert all(torch.equal(tensor, theirs.model[name]) for name, tensor in ours.model.items())
    assert ours.best.metric != theirs.best.metric


@pytest.mark.parametrize("metric", ["energy:mae", "forces:rmse", "virial:mae"])
def test_metric_is_that_of_the_best_model(metric: str, emt: Path, tmp_path: Path, settings: Settings) -> None:
    result = run(settings(validation_metric=metric, validate_every=2), emt, tmp_path)
    model, frames, found = load_model(result.best), FrameSet(emt / "valid", TYPE_MAP), []
    quantity, _, kind = metric.partition(":")
    for i in range(len(frames)):
        batch = BatchMaker(frames, model.neighbors)([i])
        made, n = model.derivatives(batch.neighborhood, 1), 1 if quantity == "forces" else frames[i].n_atoms
        found.append((getattr(made, quantity) - batch.labels[quantity].values).detach().numpy().ravel() / n)
    errors = np.concatenate(found)
    expected = np.abs(errors).mean() if kind == "mae" else math.sqrt(np.square(errors).mean())
    assert result.metrics["best"]["metric"] == pytest.approx(expected, rel=1e-6)


def test_metric_without_numbers(emt: Path, tmp_path: Path, emt_frames: MakeFrames, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"no error of dipole, expected loss, or one of energy, forces, virial"):
        run(settings(validation_metric="dipole:mae"), emt, tmp_path / "a")
    write_mixed(emt_frames(3, 2, labels=("energy",)), tmp_path / "energies", TYPE_MAP)
    with pytest.raises(ConfigError, match="no frame of the validation data has the label 'forces'"):
        run(settings(validation_metric="forces:mae"), emt, tmp_path / "b", valid_data=tmp_path / "energies")
    with pytest.raises(ConfigError, match="needs validation data: add them, or write energy:rmse"):
        run(settings(validation_metric="energy:mae"), emt, tmp_path / "c", valid_data=None)
    assert not (tmp_path / "a").exists()
    without = run(settings(validation_metric="energy:rmse", validate_every=8), emt, tmp_path / "d", valid_data=None)
    assert 0 < without.metrics["best"]["metric"] < 1


def test_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is over while two more of the longest step would still fit."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    signal = StopSignal(None, 60.0)
    found = []
    for seconds in (20.0, 1.0, 5.0, 2.0, 5.0, 10.0, 1.0):
        now += seconds
        found.append(signal.requested)
    assert found == [False] * 5 + [True] * 2
    assert not StopSignal(None).requested


def test_training_goes_on_after_its_time(emt: Path, tmp_path: Path, settings: Settings) -> None:
    whole = run(settings(), emt, tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"stopped at step 1 of 8; .*: run again to go on") as stopped:
        run(settings(walltime=0.001), emt, tmp_path / "part")
    assert stopped.value.exit_code == 75
    assert same(run(settings(walltime="1 h"), emt, tmp_path / "part"), whole)


def test_tensorboard_is_asked_for_first(
    emt: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"'tensorboard' is not installed: run `pip install 'dpsim\[tensorboard\]'`"):
        run(settings(tensorboard=True), emt, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_rows_for_tensorboard(emt: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path / "tensorboard"), 1)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    run(settings(tensorboard=True), emt, tmp_path)
    rows = [line.split(",") for line in (tmp_path / "lcurve.csv").read_text().splitlines()]
    expected = [
        (name, float(value), int(row[0]))
        for row in rows[1:]
        for name, value in zip(rows[0][1:], row[1:], strict=True)
        if value
    ]
    assert written[-1][0] == "closed"
    assert [(name, step) for name, _, step in written[:-1]] == [(name, step) for name, _, step in expected]
    np.testing.assert_allclose([v for _, v, _ in written[:-1]], [v for _, v, _ in expected], rtol=1e-7)


SE_E2_A = {
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [30, 30], "neuron": [3, 4],
                   "axis_neuron": 2},
    "fitting": {"neuron": [4]},
}  # fmt: skip


def test_kept_statistics(
    emt: Path,
    tmp_path: Path,
    emt_frames: MakeFrames,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "statistics.json"
    config = settings(model=SE_E2_A, statistics_file=str(file), steps=2)
    first = run(config, emt, tmp_path / "first")
    assert same(run(settings(model=SE_E2_A, steps=2), emt, tmp_path / "without"), first)
    (entry,) = json.loads(file.read_text())["entries"].values()
    assert {"out_bias", "descriptor.environment.mean", "descriptor.environment.stddev"} <= set(entry)

    write_mixed(emt_frames(5, 7), tmp_path / "other", TYPE_MAP)
    run(config, emt, tmp_path / "c", train_data=tmp_path / "other")
    assert len(json.loads(file.read_text())["entries"]) == 2

    def taken(*arguments: Any) -> None:
        raise AssertionError("statistics were taken")

    for name in ("set_environment_scales", "set_parameter_scales", "_set_energy_bias"):
        monkeypatch.setattr(preparation, name, taken)
    with caplog.at_level(logging.INFO, "dpsim.train"):
        assert same(run(config, emt, tmp_path / "second"), first)
    assert any(f"bias and scales from {file}" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "no file of statistics"), ("[1]", "expected a JSON object"), ("{", "cannot be read as JSON")],
)
def test_statistics_that_are_none(content: str, message: str, emt: Path, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=message):
        run(settings(statistics_file=str(tmp_path / "s.json")), emt, tmp_path / "t")


def test_damaged_statistics(emt: Path, tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "s.json"
    config = settings(statistics_file=str(file), steps=1)
    run(config, emt, tmp_path / "a")
    content = json.loads(file.read_text())
    (entry,) = content["entries"].values()
    entry["out_bias"]["values"] = [1.0]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"s\.json is damaged .*: remove it"):
        run(config, emt, tmp_path / "b")


def test_products_of_matrices_need_a_gpu() -> None:
    cpu = torch.device("cpu")
    check_products("full", cpu, "float64")
    with pytest.raises(
        SetupError, match=r"tf32 needs a GPU of compute capability 8\.0 or more, and the device is a CPU"
    ):
        check_products("tf32", cpu, "float32")
    with pytest.raises(ConfigError, match="bf16 is for networks in float32, found float64"):
        check_products("bf16", cpu, "float64")


def test_products_are_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with tf32_products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_bf16_gradient_is_near_the_full_one(emt: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plain operators, which are those of a GPU."""
    monkeypatch.setattr(library, "_loaded", False)
    monkeypatch.setattr(library, "_reason", "for this test")
    frames, found = FrameSet(emt / "train", TYPE_MAP), []
    for products in ("full", "bf16"):
        config = settings(precision="float32", matrix_products=products)
        model = resolve_model(config, TYPE_MAP).build(1)
        parameters = list(model.parameters())
        batch = BatchMaker.for_model(frames, model)([0, 1])
        outcome = make_step(config, make_loss(config.loss, model), parameters, Clock())([batch], 0)
        found.append((outcome.loss, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
    (loss, full), (other, bf16) = found
    assert other == pytest.approx(loss, rel=0.02)
    assert 1e-5 < ((bf16 - full).norm() / full.norm()).item() < 0.05
