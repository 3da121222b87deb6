"""Stages for models with several heads: where their data come from, their keys, and what they hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml

from dpsim.cli.main import run as cli
from dpsim.cli.models.train import Start, read_stage
from dpsim.train import trainer
from dpsim.workflow.context import Artifact, Context
from dpsim.workflow.planning.load import load
from dpsim.workflow.stages.freeze import FreezeStage
from dpsim.workflow.stages.test import TestStage
from dpsim.workflow.stages.train import TrainStage

HEADS = {"a": {"data": "first", "fitting": {"neuron": [4]}}, "b": {"data": ["second", "third"], "valid": "fourth"}}


def stage(**changes: Any) -> TrainStage:
    return TrainStage.model_validate({"model": "dpa3-tiny", "steps": 3, "heads": HEADS, **changes})


def test_sources_and_key() -> None:
    found = [(source.slot, source.path, source.value) for source in stage().sources()]
    assert found == [
        ("data", ("heads", "a", "data"), "first"),
        ("data", ("heads", "b", "data", 0), "second"),
        ("data", ("heads", "b", "data", 1), "third"),
        ("valid", ("heads", "b", "valid"), "fourth"),
    ]
    options = stage().key_options()["heads"]
    assert options["b"]["data"] == ["<input>", "<input>"]
    renamed = {"a": {**HEADS["a"], "data": "other"}, "b": HEADS["b"]}
    assert stage(heads=renamed).key_options() == stage().key_options()
    assert "heads" not in TrainStage(model="dpa3-tiny", steps=3, data="d").key_options()


def test_other_stages_take_a_head_without_changing_older_keys() -> None:
    for one in (FreezeStage.model_validate({"from": "m"}), TestStage(model="m", data="d")):
        assert "head" not in one.key_options()
        assert one.model_copy(update={"head": "a"}).key_options()["head"] == "a"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": "d"}, (("data",), "with 'heads', each head has its data: 'data' has no effect")),
        ({"heads": None}, ((), "a train stage takes 'data', or 'heads' with data of their own")),
        ({"model": None}, ((), "a train stage takes 'model', or 'start_from' to go on from another model")),
    ],
)
def test_problems(changes: dict[str, Any], problem: Any) -> None:
    heads = {name: {**head, "fitting": {}} for name, head in HEADS.items()}
    assert list(stage(**{"heads": heads, **changes}).problems()) == [problem]
    own = {name: {**head, "model": "dpa3-tiny"} for name, head in heads.items()}
    assert not list(stage(model=None, heads=own).problems())


def test_data_of_each_head_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = create_autospec(trainer.train)
    monkeypatch.setattr(trainer, "train", train)
    for name in ("out", "work", "first/train", "first/valid", "second", "third", "fourth"):
        (tmp_path / name).mkdir(parents=True)
    for output in TrainStage.outputs.values():
        (tmp_path / "work" / output.path).touch()
    inputs = {
        "data": [
            Artifact((tmp_path / "first",), "heads.a.data"),
            Artifact((tmp_path / "second",), "heads.b.data.0"),
            Artifact((tmp_path / "third",), "heads.b.data.1"),
        ],
        "valid": [Artifact((tmp_path / "fourth",), "heads.b.valid")],
    }
    stage().execute(Context(inputs, tmp_path / "out", tmp_path / "work", type_map=("Cu",)))
    given = train.call_args.kwargs
    assert given["train_data"] == {"a": [tmp_path / "first/train"], "b": [tmp_path / "second", tmp_path / "third"]}
    assert given["valid_data"] == {"a": [tmp_path / "first/valid"], "b": [tmp_path / "fourth"]}
    config = train.call_args.args[0]
    assert config.heads["a"].fitting == {"neuron": [4]}
    assert list(config.heads) == ["a", "b"]


def test_file_of_one_stage(tmp_path: Path) -> None:
    """``dpsim train`` takes the same keys, with paths of data."""
    for name in ("first/train", "first/valid", "second"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "type.raw").write_text("0\n")
    keys = {
        "type_map": ["Cu"], "model": "dpa3-tiny", "steps": 3,
        "heads": {"a": {"data": "first"}, "b": {"data": "second", "probability": 2}},
    }  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(keys))
    request = read_stage(tmp_path / "t.yaml", (), Start.of(None, None, None, False), tmp_path / "converted")
    assert request.data == {"a": [tmp_path / "first/train"], "b": [tmp_path / "second"]}
    assert request.valid == {"a": [tmp_path / "first/valid"]}
    assert request.settings["heads"]["b"]["probability"] == 2


def test_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["init", str(tmp_path), "--template", "finetune-recipe"]) == 0
    plan = load(tmp_path / "workflow.yaml")
    tuned = plan.workflow.tasks["tuned"].config
    assert isinstance(tuned, TrainStage)
    assert (tuned.recipe, tuned.start_from, tuned.old_data) == ("finetune", "pretrained.best", "source_data")
    assert cli(["validate", str(tmp_path / "workflow.yaml")]) == 0
