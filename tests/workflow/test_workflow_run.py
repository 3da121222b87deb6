"""Running: cache, failures, selection, retries, limits, what lies in the run directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dpsim.errors import SetupError
from dpsim.workflow.driver.progress import SilentView
from dpsim.workflow.driver.runner import Runner
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.resources import Machine
from dpsim.workflow.records import locks
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.events import read_events
from dpsim.workflow.records.store import Store

Write = Callable[..., Path]
Run = Callable[..., object]
Ran = Callable[[], list[str]]


def test_run_again_does_nothing(write: Write, run: Run, ran: Ran, tmp_path: Path) -> None:
    path = write()
    assert run(path).states == {"a": "done", "b": "done"}
    assert ran() == ["a", "b"]
    assert (tmp_path / "run/stages/b/out/y.txt").read_text() == "one\none\n"
    again = run(path)
    assert again.states == {"a": "cached", "b": "cached"}
    assert (again.code, ran()) == (0, [])


def test_the_run_directory(write: Write, run: Run, tmp_path: Path) -> None:
    run(write(), overrides=("seed=5",))
    folder = tmp_path / "run"
    manifest = json.loads((folder / "manifest.json").read_text())
    record = manifest["stages"]["b"]
    entry = folder / "store" / record["key"][:2] / record["key"]
    assert (folder / "stages" / "b").resolve() == entry
    assert {p.name for p in entry.iterdir()} >= {"stage.json", "inputs.json", "outputs.json", "log.txt", "work", "out"}
    assert not (entry / "lock").exists()
    inputs = json.loads((entry / "inputs.json").read_text())["inputs"]
    digest = Digester().path(folder / "stages/a/out/x.txt")
    assert [(i["place"], i["digest"], i["task"]) for i in inputs] == [("inputs.i", digest, "a")]
    assert not os.path.isabs(inputs[0]["paths"][0])
    assert record["inputs"] == {"inputs.i": digest}
    assert record["outputs"] == manifest["stages"]["b"]["outputs"] != {}
    assert [attempt["exit"] for attempt in record["attempts"]] == [0]
    assert record["attempts"][0]["max_rss"] > 1e6
    assert (manifest["exit"], manifest["seeds"]) == (0, {"a": 5, "b": 5})
    assert manifest["packages"]["torch"]
    assert (folder / "workflow.yaml").read_text() == (tmp_path / "w.yaml").read_text()
    assert load(tmp_path / "w.yaml").order == tuple(load(folder / "workflow.lock.yaml").order)
    kinds = [event["event"] for _, event in read_events(folder / "events.jsonl")]
    assert (kinds[0], kinds[-1]) == ("run_start", "run_end")
    assert not (folder / "driver.json").exists()


def test_a_change_runs_what_depends_on_it(write: Write, run: Run, ran: Ran, tmp_path: Path) -> None:
    path = write()
    run(path)
    ran()
    path.write_text(path.read_text().replace("{inputs.i} {inputs.i}", "{inputs.i}"))
    assert run(path).states == {"a": "cached", "b": "done"}
    path.write_text(path.read_text().replace("echo one", "echo two"))
    assert run(path).states == {"a": "done", "b": "done"}
    assert (tmp_path / "run/stages/b/out/y.txt").read_text() == "two\n"
    path.write_text(path.read_text().replace("echo two", "echo one"))
    assert run(path).states == {"a": "cached", "b": "cached"}  # both results are still in the store
    assert (tmp_path / "run/stages/b/out/y.txt").read_text() == "one\n"


def test_the_same_result_of_a_changed_stage_stops_the_change(write: Write, run: Run) -> None:
    path = write()
    run(path)
    path.write_text(path.read_text().replace("echo one", "true; echo one"))
    assert run(path).states == {"a": "done", "b": "cached"}


def test_outputs_changed_by_hand_are_made_again(write: Write, run: Run, ran: Ran, tmp_path: Path) -> None:
    path = write()
    run(path)
    ran()
    (tmp_path / "run/stages/a/out/x.txt").write_text("changed\n")
    assert run(path).states == {"a": "done", "b": "cached"}
    assert (tmp_path / "run/stages/a/out/x.txt").read_text() == "one\n"
    (tmp_path / "run/stages/b/out/y.txt").unlink()
    assert run(path).states == {"a": "cached", "b": "done"}


def test_force_and_no_cache(write: Write, run: Run, ran: Ran, tmp_path: Path) -> None:
    path = write()
    run(path)
    ran()
    (tmp_path / "run" / "stages" / "a" / "work" / "left").touch()
    assert run(path, forced=["a"]).states == {"a": "done", "b": "cached"}
    assert not (tmp_path / "run" / "stages" / "a" / "work" / "left").exists()
    assert run(path, use_cache=False).states == {"a": "done", "b": "done"}
    path.write_text(path.read_text().replace("    outputs", "    cache: off\n    outputs"))
    assert run(path).states == {"a": "cached", "b": "done"}
    assert run(path).states == {"a": "cached", "b": "done"}


FAILING = """
dpsim: 1
stages:
  bad: {uses: command, run: [sh, -c, "for i in $(seq 30); do echo line $i; done; exit 3"], outputs: [f]}
  after: {uses: command, run: [cp, "{inputs.f}", "{out}/g"], inputs: {f: bad}, outputs: [g]}
  apart: {uses: command, run: [touch, "{out}/h"], outputs: [h]}
"""


def test_a_failure_is_told_with_its_last_lines(write: Write, run: Run) -> None:
    outcome = run(write(FAILING), cpus=1)
    assert outcome.code == 5
    assert outcome.states == {"bad": "failed", "after": "blocked", "apart": "blocked"}
    failure = outcome.failures[0]
    assert "'sh' returned 3" in failure.message
    assert len(failure.lines) == 20
    assert any("line 30" in line for line in failure.lines)
    assert failure.log.is_file()


def test_keep_going(write: Write, run: Run) -> None:
    outcome = run(write(FAILING), cpus=1, keep_going=True)
    assert outcome.code == 8
    assert outcome.states == {"bad": "failed", "after": "blocked", "apart": "done"}


def test_a_missing_output_is_an_error_and_leaves_nothing(write: Write, run: Run, tmp_path: Path) -> None:
    outcome = run(write("dpsim: 1\nstages:\n  a: {uses: command, run: [touch, '{out}/x'], outputs: [y]}\n"))
    assert outcome.code == 4
    assert "did not write the output 'y'" in outcome.failures[0].message
    assert not (tmp_path / "run/stages/a/out").exists()
    assert not list((tmp_path / "run/stages/a").resolve().glob(".out*"))


def test_a_program_that_does_not_exist(write: Write, run: Run) -> None:
    outcome = run(write("dpsim: 1\nstages:\n  a: {uses: command, run: [surely-not-there]}\n"))
    assert outcome.code == 5
    assert "cannot start 'surely-not-there': No such file or directory" in outcome.failures[0].message


def test_retries(write: Write, run: Run) -> None:
    text = """
dpsim: 1
stages:
  a:
    uses: command
    run: [sh, -c, "test -e {work}/second && touch {out}/x; touch {work}/second; test -e {out}/x"]
    outputs: [x]
    retries: 1
"""
    assert run(write(text)).states == {"a": "done"}
    assert run(write(text.replace("work}/second", "work}/other").replace("retries: 1", "retries: 0"))).code == 5


def test_timeout(write: Write, run: Run) -> None:
    started = time.monotonic()
    outcome = run(write("dpsim: 1\nstages:\n  a: {uses: command, run: [sleep, 100], timeout: 1 s}\n"))
    assert outcome.code == 5
    assert outcome.failures[0].message == "ran longer than its timeout of 1 s"
    assert time.monotonic() - started < 30


def test_environment_and_placeholders(write: Write, run: Run, tmp_path: Path) -> None:
    text = """
dpsim: 1
stages:
  a:
    uses: command
    run: ["{python}", -c, "import os; open('r', 'w').write(os.environ['X'] + ' {seed} {ranks} {cpus}')"]
    env: {X: 5}
    seed: 9
    resources: {ranks: 2}
    outputs: [r]
"""
    assert run(write(text)).code == 0
    assert (tmp_path / "run/stages/a/out/r").read_text() == "5 9 2 2"


def test_an_input_of_several_files_is_several_arguments(write: Write, run: Run, tmp_path: Path) -> None:
    text = """
dpsim: 1
stages:
  a: {uses: command, matrix: {T: [2, 1]}, run: [sh, -c, "echo ${matrix.T} > {out}/x"], outputs: [x]}
  b:
    uses: command
    run: [sh, -c, 'cat "$@" > "$0"; set -- {inputs.f}; echo $# >> "$0"', "{out}/y", "{inputs.p}", "{inputs.f}"]
    inputs: {p: a, f: {path: "*.txt"}}
    outputs: [y]
"""
    for number in (3, 4):
        (tmp_path / f"{number}.txt").write_text(f"{number}\n")
    assert run(write(text)).code == 0
    assert (tmp_path / "run/stages/b/out/y").read_text().split() == ["2", "1", "3", "4", "2"]


def test_stages_share_the_cores(write: Write, run: Run, tmp_path: Path) -> None:
    stage = "{uses: command, run: [sleep, 0.1]"
    path = write("dpsim: 1\nstages:\n" + "".join(f"  s{i}: {stage}, seed: {i}}}\n" for i in range(3)))

    def most_at_once(cpus: int) -> int:
        (tmp_path / "run" / "events.jsonl").unlink(missing_ok=True)
        assert run(path, cpus=cpus, use_cache=False).code == 0
        running, most = 0, 0
        for _, event in read_events(tmp_path / "run" / "events.jsonl"):
            running += {"running": 1, "done": -1}.get(str(event.get("state")), 0)
            most = max(most, running)
        return most

    assert [most_at_once(1), most_at_once(2)] == [1, 2]


def test_equal_stages_run_once(write: Write, run: Run, tmp_path: Path) -> None:
    path = write("dpsim: 1\nstages:\n" + "".join(f"  s{i}: {{uses: command, run: [sleep, 0.5]}}\n" for i in range(2)))
    assert run(path).code == 0
    events = [event["event"] for _, event in read_events(tmp_path / "run" / "events.jsonl")]
    assert events.count("usage") == 1


def test_selection(write: Write, run: Run) -> None:
    path = write()
    refused = run(path, selected={"b"})
    assert refused.states["a"] == "failed"
    assert "needed but not done" in refused.failures[0].message
    assert run(path, selected={"a"}).states == {"a": "done", "b": "left out"}
    assert run(path, selected={"b"}).states == {"a": "cached", "b": "done"}


def test_matrix_points_are_results_of_their_own(write: Write, run: Run, tmp_path: Path) -> None:
    text = """
dpsim: 1
vars: {T: [1, 2]}
stages:
  m: {uses: command, matrix: {T: "${vars.T}"}, run: [sh, -c, "echo ${matrix.T} > {out}/t"], outputs: [t]}
"""
    path = write(text)
    assert run(path).states == {"m@T=1": "done", "m@T=2": "done"}
    assert run(path, overrides=("vars.T=[1, 2, 3]",)).states == {"m@T=1": "cached", "m@T=2": "cached", "m@T=3": "done"}
    assert (tmp_path / "run/stages/m@T=3/out/t").read_text() == "3\n"


def test_files_from_outside_are_compared_by_content(write: Write, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("1")
    text = "dpsim: 1\nstages:\n"
    text += "  s: {uses: command, run: [cp, '{inputs.i}', '{out}/o'], inputs: {i: {path: 'in/*.txt'}}, outputs: [o]}\n"
    path = write(text)
    assert run(path).states == {"s": "done"}
    os.utime(tmp_path / "in" / "a.txt")
    assert run(path).states == {"s": "cached"}
    (tmp_path / "in" / "a.txt").write_text("2")
    assert run(path).states == {"s": "done"}


def test_a_folder_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = load(write())
    with pytest.raises(
        SetupError, match=r"cannot write in .*file/run: not a directory; choose another folder with --run-dir"
    ):
        Runner(plan, tmp_path / "file" / "run", Machine(1, 0), SilentView()).run()


def test_asking_for_more_than_there_is(write: Write, run: Run) -> None:
    path = write("dpsim: 1\nstages:\n  a: {uses: command, run: [x], resources: {ranks: 9, gpus: 1}}\n")
    from dpsim.workflow.language.problems import InvalidWorkflow

    with pytest.raises(InvalidWorkflow) as caught:
        run(path)
    assert [problem.code for problem in caught.value.problems] == ["E404", "E404"]


def test_a_changed_version_is_noted_and_counts_if_strict(write: Write, run: Run, tmp_path: Path) -> None:
    from dpsim.workflow.planning.decide import Decider

    path = write()
    run(path)
    store = Store(tmp_path / "run")
    entry = store.linked()["a"]
    entry.write("stage.json", {**entry.read("stage.json"), "soft": {"dpsim": "0.0.1"}})
    decision = Decider(load(path), store, Digester()).decide("a")
    assert decision.action == "cached"
    assert decision.note.startswith("made with dpsim 0.0.1, now ")
    path.write_text(path.read_text().replace("a: {uses: command,", "a: {uses: command, cache: strict,"))
    assert Decider(load(path), store, Digester()).decide("a").action == "run"


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    dead = {"host": socket.gethostname(), "pid": 2**22 - 3, "start": 1.0, "since": "then"}
    lock.write_text(json.dumps(dead))
    assert "took over the lock of process" in locks.acquire(lock)
    owner = locks.read_owner(lock)
    assert owner is not None
    assert (owner.pid, owner.alive()) == (os.getpid(), True)
    locks.release(lock)
    assert not lock.exists()


def test_the_lock_of_another_machine_is_reported(tmp_path: Path) -> None:
    from dpsim.errors import StageError

    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": 1.0, "since": "then"}))
    with pytest.raises(
        StageError, match="held by process 1 on elsewhere, since then; if that process has ended, delete"
    ):
        locks.acquire(lock)
    assert lock.exists()


def test_a_number_given_out_again_is_another_process(tmp_path: Path) -> None:
    """Its lock is free, and what it started lives on. The leader of a group of its own plays that process."""
    script = """if True:
        import json, socket, subprocess, sys
        from pathlib import Path
        from dpsim.workflow.records import locks

        lock, number = Path(sys.argv[1]), int(sys.argv[2])
        lock.write_text(json.dumps({"host": socket.gethostname(), "pid": number, "start": 5.0, "since": "then"}))
        assert "took over" in locks.acquire(lock)
    """
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    try:
        taker = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "lock"), str(leader.pid)], capture_output=True, text=True
        )
        assert taker.returncode == 0, taker.stderr
        assert leader.poll() is None
        assert psutil.Process(leader.pid).children()
    finally:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
