"""What stages on one machine share: cores, memory and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsim.workflow.driver.progress import SilentView
from dpsim.workflow.driver.retrying import Attempts
from dpsim.workflow.driver.runner import Runner
from dpsim.workflow.executors.local import LocalExecutor, gpu_numbers
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.language.profiles import Retries
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.resources import Machine, executor_of, grants
from dpsim.workflow.stages.command import CommandStage

Write = Callable[..., Path]
HOLD = (
    "import sys, time, pathlib; x = bytearray(int(float(sys.argv[1]) * 1e6)); p = pathlib.Path(sys.argv[2]); "
    "time.sleep(float(sys.argv[3])); p.write_text('done')"
)


def stage(megabytes: float, seconds: float, resources: str, seed: int = 0) -> str:
    words = f'"{{python}}", -c, "{HOLD}", "{megabytes}", "{{out}}/r", "{seconds}"'
    return f"{{uses: command, run: [{words}], outputs: [r], seed: {seed}, resources: {resources}}}"


def run(path: Path, folder: Path, machine: Machine, **options: Any) -> Any:
    return Runner(load(path, **options), folder / "run", machine, SilentView()).run()


def test_a_stage_that_takes_more_memory_than_it_is_granted(write: Write, tmp_path: Path) -> None:
    path = write(f"dpsim: 1\nstages:\n  a: {stage(400, 20, '{memory: 200 MB}')}\n")
    outcome = run(path, tmp_path, Machine(2, 0))
    assert outcome.code == 7
    assert "GB of memory, and is granted 0.2 GB; raise 'memory:'" in outcome.failures[0].message
    assert outcome.seconds < 15


def test_memory_is_shared(write: Write, tmp_path: Path) -> None:
    stages = "\n".join(f"  s{i}: {stage(1, 0.5, '{memory: 1 GB}', i)}" for i in range(2))
    path = write(f"dpsim: 1\nstages:\n{stages}\n")
    events = tmp_path / "run" / "events.jsonl"
    assert run(path, tmp_path, Machine(2, 0, 1.5e9)).code == 0
    words = [line for line in events.read_text().splitlines() if '"state": "' in line]
    order = [("running" if '"running"' in line else "done") for line in words]
    assert order == ["running", "done", "running", "done"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{memory: 3 GB}", "memory: 3 GB is more than the 2 GB this run may use; lower it, or raise 'slots:'"),
        ("{nodes: 2}", "nodes: 2 is more than this one machine; take a profile with a cluster, or lower it"),
        ("{gpus: 1}", "gpus: 1 is more than the 0 GPUs this run may use"),
    ],
)
def test_more_than_there_is_is_an_error_before_the_run(
    write: Write, tmp_path: Path, resources: str, expected: str
) -> None:
    path = write(f"dpsim: 1\nstages:\n  a: {stage(1, 0, resources)}\n")
    with pytest.raises(InvalidWorkflow) as caught:
        run(path, tmp_path, Machine(2, 0, 2e9))
    assert expected in caught.value.problems[0].message
    assert not (tmp_path / "run").exists()


def test_gpus_are_those_that_this_process_sees(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu_numbers(2) == ["3", "5"]
    code = "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    path = write(
        f'dpsim: 1\nstages:\n  a: {{uses: command, run: ["{{python}}", -c, "{code}", "{{out}}/r"], outputs: [r], '
        "matrix: {T: [1, 2]}, seed: '${matrix.T}', resources: {gpus: 1}}\n"
    )
    assert run(path, tmp_path, Machine(2, 2)).code == 0
    seen = {file.read_text() for file in (tmp_path / "run" / "stages").glob("*/out/r")}
    assert seen == {"3", "5"} or seen == {"3"}  # one after the other, the first GPU is enough
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_numbers(2) == ["0", "1"]
    assert LocalExecutor(Machine(1, 0)).room_for(grants(load(path), Machine(2, 2))["a@T=1"]) is False


def test_what_the_job_of_a_cluster_asks_for(write: Write) -> None:
    path = write(
        "dpsim: 1\nprofiles: {c: {executor: parsl, here: [b]}}\nstages:\n"
        "  a: {uses: command, run: ['true'], resources: {nodes: 2, gpus: 4, ranks: 8, memory: 1 GB}}\n"
        "  b: {uses: command, run: ['true']}\n"
    )
    plan = load(path, profile="c", check_files=False)
    assert [executor_of(plan, name) for name in plan.order] == ["parsl", "local"]
    granted = grants(plan, Machine(2, 0))
    assert (granted["a"].nodes, granted["a"].ranks, granted["a"].cpus, granted["a"].gpus) == (2, 8, 8, 8)
    assert granted["b"].nodes == 1


def test_models_of_an_ensemble_are_fanned_out_like_points(write: Write) -> None:
    text = (
        "dpsim: 1\ntype_map: [Cu]\nprofiles: {{c: {{fanout: parsl{}}}}}\nstages:\n"
        "  data: {{uses: convert, from: {{path: frames.extxyz}}}}\n"
        "  fit: {{uses: train, data: data, model: {{preset: dpa3-tiny}}, steps: 5, ensemble: 2}}\n"
        "  freeze: {{uses: freeze, from: fit.best}}\n"
        "  one: {{uses: train, data: data, model: {{preset: dpa3-tiny}}, steps: 5}}\n"
    )
    plan = load(write(text.format("")), profile="c", check_files=False)
    fanned = [name for name in plan.order if executor_of(plan, name) == "parsl"]
    assert sorted(fanned) == ["fit@member=1", "fit@member=2", "freeze@member=1", "freeze@member=2"]
    plan = load(write(text.format(", alone: [train]")), profile="c", check_files=False)
    fanned = [name for name in plan.order if executor_of(plan, name) == "parsl"]
    assert sorted(fanned) == ["freeze@member=1", "freeze@member=2"]


def test_how_often_an_attempt_is_repeated() -> None:
    attempts = Attempts(Retries(oom=1, preempted=2, walltime=0, error=1))
    plain = CommandStage(run=["true"])
    own = CommandStage(run=["true"], retries=0)
    assert attempts.again("a", plain, 7, "oom").startswith("ran out of memory")
    assert attempts.again("a", plain, 7, "oom") == ""
    assert [bool(attempts.again("a", plain, 5, "preempted")) for _ in range(3)] == [True, True, False]
    assert attempts.again("a", plain, 75, "walltime") == ""
    assert attempts.again("a", plain, 5, "") == "attempt 1 failed; trying again"
    assert attempts.again("a", plain, 5, "") == ""
    assert attempts.again("b", own, 5, "error") == ""
    assert attempts.again("b", plain, 4, "") == ""  # wrong input stays wrong
    assert attempts.again("b", plain, 75, "cancelled") == ""
    assert attempts.counts("a") == {"oom": 1, "preempted": 2, "error": 1}
