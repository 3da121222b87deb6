"""Epochs of several heads, and statistics that are kept for trainings of heads and for fine-tunings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError
from dpsim.model.checkpoint import load_any, state_digest
from dpsim.train.batches.frames import FrameSet
from dpsim.train.config import TrainConfig
from dpsim.train.start import finetune, multi
from dpsim.train.start import setup as preparation
from dpsim.train.start.length import steps_on, with_steps_of_heads
from dpsim.train.trainer import TrainResult, train
from dpsim.workflow.stages.train import TrainStage

TYPE_MAP = ("Cu", "Au")
Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def data(
    emt: Path, emt_frames: Callable[..., list[Frame]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """24 frames of one head, 10 of the other, in two systems each."""
    folder = tmp_path_factory.mktemp("b")
    write_mixed(emt_frames(10, 5), folder / "b", TYPE_MAP)
    return {"a": emt / "train", "b": folder / "b"}


def run(config: TrainConfig, data: dict[str, Path] | Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, **{"train_data": data, "type_map": TYPE_MAP, **options})


def test_steps_and_shares(data: dict[str, Path], settings: Settings) -> None:
    """24 frames by 3 and 10 by 4 are 8 and 3 steps; two epochs and five are 16 and 15 steps."""
    config = settings(steps=None, heads={"a": {"epochs": 2}, "b": {"epochs": 5, "batch_size": 4}})
    frames = {name: FrameSet(path, TYPE_MAP) for name, path in data.items()}
    found = with_steps_of_heads(config, frames)
    assert found.steps == 31
    assert found.heads is not None
    assert [head.probability for head in found.heads.values()] == pytest.approx([16 / 31, 15 / 31], abs=1e-12)
    assert steps_on(config, data) == 31
    two = with_steps_of_heads(config, frames, workers=2)
    assert two.steps == 2 * 4 + 5 * 2
    with pytest.raises(ConfigError, match="depends on the data"):
        _ = config.total_steps
    long = settings(steps=None, heads={"a": {"epochs": 0.1}}, learning_rate={"warmup_steps": 9})
    with pytest.raises(ConfigError, match=r"epochs: 0\.1 of a are 1 steps: .*warmup_steps"):
        with_steps_of_heads(long, frames)


def test_more_epochs_go_on(data: dict[str, Path], tmp_path: Path, settings: Settings) -> None:
    def config(times: int) -> TrainConfig:
        return settings(steps=None, batch_size=4, heads={"a": {"epochs": times}, "b": {"epochs": 2 * times}})

    first = run(config(1), data, tmp_path / "t")
    assert first.metrics["steps"] == 6 + 2 * 3
    heads = first.metrics["heads"]
    assert [heads[name]["probability"] for name in "ab"] == pytest.approx([0.5, 0.5])
    assert run(config(2), data, tmp_path / "t").metrics["steps"] == 24
    with pytest.raises(ConfigError, match="other settings"):
        run(settings(steps=30, batch_size=4, heads={"a": {}, "b": {"probability": 3}}), data, tmp_path / "t")


def test_stage_keeps_its_work_when_epochs_are_raised() -> None:
    def parts(epochs: float) -> dict[str, Any]:
        heads = {"a": {"data": "first", "epochs": epochs}}
        stage = TrainStage.model_validate({"model": "dpa3-tiny", "heads": heads})
        return stage.work_parts({"options": stage.key_options()})

    assert parts(1) == parts(2)
    plain = TrainStage.model_validate({"model": "dpa3-tiny", "steps": 3, "heads": {"a": {"data": "first"}}})
    assert "epochs" not in plain.key_options()["heads"]["a"]


SE_E2_A = {
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [30, 30], "neuron": [3, 4],
                   "axis_neuron": 2},
    "fitting": {"neuron": [4]},
}  # fmt: skip


def refuse_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*arguments: Any, **options: Any) -> None:
        raise AssertionError("statistics were taken")

    for module, names in (
        (multi, ("scale_environment", "set_output", "adjust_output")),
        (finetune, ("set_environment_scales", "fit_bias")),
        (preparation, ("set_environment_scales", "set_parameter_scales")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, taken)


def test_statistics_of_heads_are_kept(
    data: dict[str, Path], tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "statistics.json"
    plain = settings(model=SE_E2_A, steps=2, heads={"a": {}, "b": {}})
    config = plain.model_copy(update={"statistics_file": str(file)})
    digests = {state_digest(load_any(run(one, data, tmp_path / str(k)).last)) for k, one in enumerate((plain, config))}
    (entry,) = json.loads(file.read_text())["entries"].values()
    assert {"heads.0.out_bias", "heads.1.out_bias"} <= set(entry)
    refuse_to_take(monkeypatch)
    assert {state_digest(load_any(run(config, data, tmp_path / "again").last))} == digests
    with pytest.raises(AssertionError, match="statistics were taken"):
        run(config, {"a": data["a"], "b": data["a"]}, tmp_path / "other")


@pytest.mark.parametrize("heads", [False, True])
def test_statistics_of_a_fine_tuning_are_kept(
    heads: bool, data: Any, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """What was kept is shown element by element before the first step."""
    pretrained, other = (run(settings(model=SE_E2_A, steps=1, seed=seed), data["a"], tmp_path / str(seed)).last
                         for seed in (1, 2))  # fmt: skip
    more = {"heads": {"x": {"start_head": "Default"}, "y": {"start_head": "RANDOM"}}} if heads else {"head": None}
    plain = TrainConfig(recipe="finetune", steps=2, batch_size=2, loss={"virial": [0.02, 1]}, **more)
    config = plain.model_copy(update={"statistics_file": str(tmp_path / "s.json")})
    given = {"x": data["a"], "y": data["b"]} if heads else data["b"]

    def tune(one: TrainConfig, name: str, start: Path = pretrained) -> str:
        found = run(one, given, tmp_path / name, init_model=start, type_map=TYPE_MAP)
        return state_digest(load_any(found.last))

    digests = {tune(plain, "plain"), tune(config, "kept")}
    assert len(digests) == 1
    refuse_to_take(monkeypatch)
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        assert tune(config, "again") in digests
    order = [message.split(":")[0] for message in caplog.messages]
    assert order.index("energy bias of the elements, as it was kept") < order.index("step 1")
    with pytest.raises(AssertionError, match="statistics were taken"):
        tune(config, "of-other", other)
