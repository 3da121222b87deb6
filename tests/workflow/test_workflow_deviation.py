"""A stage md with several models."""

from __future__ import annotations

from typing import Any

from dpsim.workflow.stages.md import MDStage

RUN = {"ensemble": "nvt", "temperature": "300 K", "time": "1 ps"}
START = {"prototype": "fcc", "element": "Cu", "supercell": [2, 2, 2]}


def _stage(**changes: Any) -> MDStage:
    return MDStage.model_validate({"uses": "md", "potential": "frozen.model", "start": START, "run": RUN, **changes})


def test_several_models() -> None:
    stage = _stage(potential=["one.model", "two.model"], deviation={"every": "50 steps"})
    assert [(s.path, s.value) for s in stage.sources()][:2] == [
        (("potential", 0), "one.model"),
        (("potential", 1), "two.model"),
    ]
    assert stage.declared_outputs()["deviation"].path == "model_devi.out"
    assert "deviation" not in _stage().declared_outputs()


def test_keys_of_older_workflows_stay() -> None:
    """What came later is in the key where it is used."""
    plain = _stage().key_options()
    assert "deviation" not in plain
    assert "max_deviation_force" not in plain["stop_if"]
    limited = _stage(
        potential=["one.model", "two.model"], deviation={"every": 5}, stop_if={"max_deviation_force": 1.5}
    ).key_options()
    assert limited["deviation"]["every"] == "5 steps"
    assert limited["stop_if"]["max_deviation_force"] == 1.5
    assert limited["potential"] == ["<input>", "<input>"]
