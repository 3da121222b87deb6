"""Loops: planned as they go, ended by a number, resumed anywhere, continued when more iterations are allowed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.workflow.driver.outcome import Outcome
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.decide import Decider
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.loop import decisions
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.store import Store
from dpsim.workflow.stages.loop import Until, metric_value

NOTE = "; echo $0 >> ../../../../ran.txt"
COUNTING = f"""
dpsim: 1
name: counting
stages:
  seed: {{uses: command, run: [sh, -c, "echo 0 > {{out}}/n{NOTE}", seed], outputs: {{n: n}}}}
  loop:
    uses: loop
    max_iterations: 5
    until: {{metric: count.n, at_least: 3}}
    carry: {{n: seed.n}}
    stages:
      add:
        uses: command
        run: [sh, -c, "expr $(cat {{inputs.n}}) + 1 > {{out}}/n{NOTE}", add]
        inputs: {{n: loop.n}}
        outputs: {{n: n}}
      count:
        uses: command
        run: [sh, -c, "printf '{{\\"n\\": %s}}' $(cat {{inputs.n}}) > {{out}}/m.json{NOTE}", count]
        inputs: {{n: add.n}}
        outputs: {{m: m.json}}
    next: {{n: add.n}}
  end: {{uses: command, run: [cp, "{{inputs.n}}", "{{out}}/n"], inputs: {{n: loop.n}}, outputs: {{n: n}}}}
"""
Write = Callable[..., Path]
Run = Callable[..., Outcome]


def artifact(folder: Path, task: str, name: str) -> str:
    return (folder / "run" / "stages" / task / "out" / name).read_text()


def table(folder: Path) -> dict:
    return json.loads(artifact(folder, "loop", "metrics.json"))


def test_a_loop_ends_when_its_number_is_good(tmp_path: Path, write: Write, run: Run, ran: Callable) -> None:
    outcome = run(write(COUNTING))
    assert outcome.code == 0
    assert set(outcome.states.values()) == {"done"}
    names = [f"loop.{number:02d}.{inner}" for number in (1, 2, 3) for inner in ("add", "count")]
    assert set(outcome.states) == {"seed", *names, "loop", "end"}
    assert ran() == ["seed", *["add", "count"] * 3]
    assert artifact(tmp_path, "end", "n") == "3\n"
    found = table(tmp_path)
    assert [(row["number"], row["value"]) for row in found["iterations"]] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert found["converged"] is True
    assert artifact(tmp_path, "loop", "iterations.csv").splitlines()[-1] == "3,3.0,3"

    again = run(write(COUNTING))
    assert set(again.states.values()) == {"cached"}
    assert set(again.states) == set(outcome.states)
    assert ran() == []


def test_a_loop_that_is_not_good_enough_ends_all_the_same_and_goes_on_when_allowed(
    tmp_path: Path, write: Write, run: Run, ran: Callable
) -> None:
    path = write(COUNTING)
    short = ("stages.loop.max_iterations=2",)
    assert run(path, overrides=short).code == 0
    assert table(tmp_path)["converged"] is False
    assert artifact(tmp_path, "end", "n") == "2\n"
    assert ran() == ["seed", *["add", "count"] * 2]

    assert run(path).code == 0
    assert ran() == ["add", "count"]
    assert artifact(tmp_path, "end", "n") == "3\n"
    assert table(tmp_path)["converged"] is True

    assert set(run(path, overrides=short).states.values()) == {"cached"}
    assert table(tmp_path)["converged"] is False
    assert artifact(tmp_path, "end", "n") == "2\n"


def test_several_good_iterations_in_a_row(tmp_path: Path, write: Write, run: Run, ran: Callable) -> None:
    assert run(write(COUNTING), overrides=("stages.loop.until.for=2",)).code == 0
    assert [row["value"] for row in table(tmp_path)["iterations"]] == [1, 2, 3, 4]
    assert table(tmp_path)["converged"] is True
    ran()
    # Less is asked for: nothing is run but the table and what comes after.
    assert run(write(COUNTING)).code == 0
    assert ran() == []


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        ({"at_least": 0.9}, [0.5, 0.9], True),
        ({"at_least": 0.9}, [0.95, 0.8], False),
        ({"at_least": 0.9, "for": 2}, [0.95], False),
        ({"at_least": 0.9, "for": 2}, [0.95, 0.5, 0.95], False),
        ({"at_least": 0.9, "for": 2}, [0.5, 0.95, 0.95], True),
        ({"at_most": 0.1}, [0.2, 0.05], True),
        ({"at_most": 0.0}, [0.0], True),
        ({"at_most": 0.1}, [float("nan")], False),
    ],
)
def test_until(condition: dict, values: list[float], expected: bool) -> None:
    assert Until.model_validate({"metric": "select.accurate", **condition}).reached(values) is expected


def test_of_several_points_the_worst_counts() -> None:
    least = Until.model_validate({"metric": "test.overall.rmse", "at_most": 1})
    reported = {"test@T=1": {"overall": {"rmse": 0.5}}, "test@T=2": {"overall": {"rmse": 0.7}}, "other": {}}
    assert metric_value(least, reported) == 0.7
    most = Until.model_validate({"metric": "test.overall.rmse", "at_least": 1})
    assert metric_value(most, reported) == 0.5
    with pytest.raises(KeyError, match=r"reports no number 'overall.mae'; its numbers: test\.overall\.rmse"):
        metric_value(Until.model_validate({"metric": "test.overall.mae", "at_least": 1}), reported)


def test_a_number_that_is_not_there_fails_the_loop_after_its_first_iteration(write: Write, run: Run) -> None:
    outcome = run(write(COUNTING), overrides=("stages.loop.until.metric=count.m",))
    assert outcome.code == 4
    assert outcome.states["loop.01.count"] == "done"
    assert outcome.states["loop"] == "failed"
    assert "loop.02.add" not in outcome.states
    assert "stage 'count' reports no number 'm'; its numbers: count.n" in outcome.failures[0].message


def test_a_failing_inner_stage_blocks_what_follows(tmp_path: Path, write: Write, run: Run) -> None:
    text = COUNTING.replace('"expr $(cat', '"test $(cat {inputs.n}) -lt 1 || exit 3; expr $(cat')
    outcome = run(write(text))
    assert outcome.code == 5
    assert outcome.states["loop.01.count"] == "done"
    assert outcome.states["loop.02.add"] == "failed"
    assert (outcome.states["loop.02.count"], outcome.states["loop"], outcome.states["end"]) == ("blocked",) * 3


def test_plan_follows_what_is_done(tmp_path: Path, write: Write, run: Run) -> None:
    path = write(COUNTING)

    def planned(*overrides: str) -> list[tuple[str, str, str]]:
        plan = load(path, overrides=overrides)
        decider = Decider(plan, Store(tmp_path / "run"), Digester())
        return [(one.task, one.action, one.reason) for one in decisions(decider)]

    first = planned()
    assert [name for name, _, _ in first] == ["seed", "loop.01.add", "loop.01.count", "loop", "end"]
    assert first[3][1:] == ("wait", "after iteration 1, then up to 4 more until count.n is at least 3")
    assert run(path).code == 0
    assert {action for _, action, _ in planned()} == {"cached"}
    more = {name: (action, reason) for name, action, reason in planned("stages.loop.until.at_least=9")}
    assert more["loop.03.count"][0] == "cached"
    assert more["loop.04.add"][0] == "run"
    reason = "after iteration 4, then up to 1 more until count.n is at least 9 (1, 2, 3 so far)"
    assert more["loop"] == ("wait", reason)


def test_parts_of_a_loop_can_be_chosen(tmp_path: Path, write: Write, run: Run, ran: Callable) -> None:
    path = write(COUNTING)
    plan = load(path)
    assert plan.tasks_of("loop") == ["loop.01.add", "loop.01.count", "loop"]
    assert plan.tasks_of("loop.01") == ["loop.01.add", "loop.01.count"]
    assert plan.tasks_of("loop.count") == plan.tasks_of("loop.01.count") == ["loop.01.count"]
    outcome = run(path, selected=plan.upstream(["loop.01.add"]))
    assert outcome.code == 0
    assert ran() == ["seed", "add"]
    assert outcome.states["loop"] == "left out"
    whole = run(path, selected=plan.upstream(plan.tasks_of("loop")))
    assert whole.states["loop"] == "done"
    assert whole.states["end"] == "left out"
    assert whole.states["loop.03.count"] == "done"
    ran()
    forced = run(path, forced=plan.tasks_of("loop"))
    assert forced.code == 0
    assert ran() == ["add", "count"] * 3


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dpsim.cli.main", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_other_commands_know_inner_stages(tmp_path: Path, write: Write, run: Run) -> None:
    assert run(write(COUNTING)).code == 0
    alone = command(tmp_path, "run", "w.yaml", "--run-dir", "run", "--only", "loop.03.count")
    assert alone.returncode == 0, alone.stderr
    assert "loop.03.count  cached" in alone.stderr
    status = command(tmp_path, "status", "run").stdout
    assert "loop.03.count" in status
    explained = command(tmp_path, "explain", "loop.02.add", "run").stdout
    assert "(loop.01.add)" in explained
    wrong = command(tmp_path, "run", "w.yaml", "--run-dir", "run", "--only", "loop.04")
    assert wrong.returncode == 3
    assert "--only loop.04: there is no such stage" in wrong.stderr
    cleaned = command(tmp_path, "clean", "run", "--unreferenced").stdout
    assert "freed 0.0 MB" in cleaned


# --- kill -9 -------------------------------------------------------------------------------------------------------

SLOW = COUNTING.replace('"expr', '"sleep 0.4; expr')


def killed(folder: Path, seconds_after: str) -> None:
    """Start a run and kill it -9 while an inner stage of the second iteration runs."""
    line = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run"]
    process = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "run" / "stages" / seconds_after).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.parametrize("moment", ["loop.01.add", "loop.02.add", "loop.02.count", "loop"])
def test_a_killed_loop_goes_on_inside_of_its_iteration(
    tmp_path: Path, write: Write, run: Run, ran: Callable, moment: str
) -> None:
    path = write(SLOW)
    killed(tmp_path, moment)
    before = ran()
    finished = before.count("count")
    outcome = run(path)
    assert outcome.code == 0
    assert outcome.count("cached") >= 2 * finished
    assert artifact(tmp_path, "end", "n") == "3\n"
    resumed = {name: Digester().path(entry.out) for name, entry in Store(tmp_path / "run").linked().items()}
    (tmp_path / "run").rename(tmp_path / "broken")
    assert run(path).code == 0
    unbroken = {name: Digester().path(entry.out) for name, entry in Store(tmp_path / "run").linked().items()}
    assert resumed == unbroken


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "inputs: {n: loop.n}\n        outputs",
            "inputs: {n: loop.m}\n        outputs",
            14,
            "'loop.m' is not an output",
        ),
        ("inputs: {n: add.n}", "inputs: {n: ad.n}", 19, "there is no stage 'ad'"),
        ("next: {n: add.n}", "next: {n: add.m}", 21, "'add.m' is not an output of stage 'add'"),
        ("next: {n: add.n}", "next: {n: loop.n}", 21, "'n' is only handed on"),
        ("next: {n: add.n}", "next: {m: add.n}", 21, "'m' is not in 'carry'"),
        ("carry: {n: seed.n}", "carry: {n: sed.n}", 9, "there is no stage 'sed'"),
        ("carry: {n: seed.n}", "carry: {n: loop.n}", 9, "circle"),
        ("carry: {n: seed.n}", "carry: {n: {path: nowhere}}", 9, "no file matches 'nowhere'"),
        ("metric: count.n", "metric: cont.n", 8, "'cont' is not an inner stage of this loop"),
        ("at_least: 3", "at_least: 3, at_most: 4", 8, "give the limit of the metric once"),
        ("max_iterations: 5", "max_iterations: 0", 7, "greater than or equal to 1"),
        ("max_iterations: 5", "max_iteration: 5", 7, "'max_iteration' is not a key of a loop stage"),
        ("      add:", "      seed:", 11, "there is a stage 'seed' outside of the loop too"),
        ("      add:\n        uses: command", "      add:\n        uses: comand", 12, "'comand' is not a stage type"),
        ("      add:\n        uses: command", "      add:\n        uses: loop", 12, "a loop inside of a loop"),
        ("inputs: {n: loop.n}, outputs", "inputs: {n: add.n}, outputs", 22, "is inside of 'loop'"),
        ("outputs: {n: n}\n      count", "output: {n: n}\n      count", 15, "'output' is not a key of a command stage"),
        ("max_iterations: 5", "max_iterations: 5\n    matrix: {T: [1]}", 8, "a loop has no matrix"),
    ],
)
def test_mistakes_have_their_place(write: Write, old: str, new: str, line: int, message: str) -> None:
    assert old in COUNTING
    path = write(COUNTING.replace(old, new, 1))
    with pytest.raises(InvalidWorkflow) as raised:
        load(path)
    found = raised.value.render()
    assert message in found.replace("\n  ", " ")
    assert any(problem.place is not None and abs(problem.place.line - line) <= 1 for problem in raised.value.problems)


def test_inner_stages_have_what_all_have(tmp_path: Path, write: Write, run: Run) -> None:
    """A matrix, something left out, variables, and files from outside to begin with."""
    (tmp_path / "first").write_text("0\n")
    text = """
dpsim: 1
vars: {step: 2}
stages:
  loop:
    uses: loop
    max_iterations: 3
    until: {metric: count.n, at_least: 4}
    carry: {n: {path: first}}
    stages:
      add:
        uses: command
        matrix: {more: [0, 1]}
        run: [sh, -c, "expr $(cat {inputs.n}) + ${vars.step} + ${matrix.more} > {out}/n"]
        inputs: {n: loop.n}
        outputs: {n: n}
      unused: {uses: command, run: [sh, -c, "exit 1"], inputs: {n: "add@more=1.n"}, when: false}
      after: {uses: command, run: [sh, -c, "exit 1"], inputs: {n: unused}}
      some: {uses: command, matrix: {on: [true, "false"]}, run: ["true"], when: "${matrix.on}"}
      none: {uses: command, run: [sh, -c, "exit 1"], inputs: {n: some@on=false}}
      count:
        uses: command
        run: [sh, -c, "printf '{\\"n\\": %s}' $(cat {inputs.n}) > {out}/m.json"]
        inputs: {n: "add@more=0.n"}
        outputs: {m: m.json}
    next: {n: "add@more=0.n"}
"""
    path = write(text)
    plan = load(path)
    assert plan.order == (
        "loop.01.add@more=0", "loop.01.add@more=1", "loop.01.some@on=true", "loop.01.count", "loop",
    )  # fmt: skip
    assert plan.skipped == {
        "loop.01.after": "needs unused, which is left out",
        "loop.01.none": "needs some@on=false, which is left out",
    }
    outcome = run(path)
    assert outcome.code == 0, outcome.failures
    assert artifact(tmp_path, "loop.02.add@more=1", "n") == "5\n"
    assert [row["value"] for row in table(tmp_path)["iterations"]] == [2, 4]


def test_the_schema_knows_inner_stages() -> None:
    from jsonschema import Draft202012Validator

    from dpsim.workflow.language.json_schema import json_schema
    from dpsim.workflow.language.yaml_loader import load_text

    validator = Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(load_text(COUNTING, "w.yaml").data))
    wrong = load_text(COUNTING.replace("inputs: {n: add.n}\n", "input: {n: add.n}\n"), "w.yaml").data
    (error,) = validator.iter_errors(wrong)
    assert list(error.absolute_path)[:3] == ["stages", "loop", "stages"]
