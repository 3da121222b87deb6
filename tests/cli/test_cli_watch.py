"""Runs that are looked at from outside: the same tree and the same lines as of the process that drives them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpsim.workflow.driver.following import Follower, outcome_of
from dpsim.workflow.records.store import Store

TWO = """\
dpsim: 1
name: demo
stages:
  a: {uses: command, run: [sh, -c, "sleep 1; echo one > {out}/x"], outputs: [x]}
  b: {uses: command, run: [sh, -c, "cat {inputs.i}; exit ${vars.code}"], inputs: {i: a}, outputs: []}
vars: {code: 0}
"""
LONG = "dpsim: 1\nname: demo\nstages:\n  a: {uses: command, run: [sh, -c, 'echo > {work}/f; sleep 600'], outputs: []}\n"
COMMAND = [sys.executable, "-m", "dpsim.cli.main"]


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def on_a_terminal(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command whose output all goes to a pseudo-terminal; return its exit status and what was drawn."""
    import pty

    here, there = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen([*COMMAND, *words], cwd=folder, stdout=there, stderr=there, env=environment)
    os.close(there)
    drawn = b""
    while True:
        try:
            block = os.read(here, 4096)
        except OSError:
            break
        if not block:
            break
        drawn += block
    os.close(here)
    return process.wait(timeout=60), drawn.decode()


def heeding_ctrl_c() -> None:
    """Undo what a process in the background of a shell without job control inherits: that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.05)


def tree(drawn: str) -> list[str]:
    """Return the lines of the last tree, without colours and times."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "")
    lines = plain[plain.rindex("demo  ") :].splitlines()
    return [re.sub(r"[0-9.]+ s", "TIME", line).rstrip() for line in lines if line[:1] in "├└"]


class Notes:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.told.append((name, *values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w.yaml").write_text(TWO)
    return tmp_path


def test_watching_in_the_background(folder: Path) -> None:
    done = call(folder, "run", "w.yaml", "--watch", "--set", "vars.code=3")
    assert done.returncode == 5
    lines = [re.sub(r"[0-9.]+ s", "TIME", line.split("  ", 1)[1]) for line in done.stderr.splitlines()[:4]]
    assert [re.sub(" +", " ", line) for line in lines] == [
        "a running (new)",
        "a done after TIME",
        "b running (new)",
        "b failed after TIME ('sh' returned 3; its output is in the log of the stage)",
    ]
    assert "    one" in done.stderr
    assert "run it alone:    dpsim run w.yaml --only b --set vars.code=3" in done.stderr
    assert done.stdout.startswith("demo: 1 done, 1 failed in ")
    assert "demo: 1 done, 1 failed in " in (folder / "runs" / "demo" / "driver.log").read_text()
    again = call(folder, "run", "w.yaml", "--watch", "--json", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["stages"] == {"a": "cached", "b": "done"}


def test_the_tree_is_the_same(folder: Path) -> None:
    code, here = on_a_terminal(folder, "run", "w.yaml")
    assert (code, [line[2:].split() for line in tree(here)]) == (0, [
        ["─", "✔", "a", "command", "done", "TIME"], ["─", "✔", "b", "command", "done", "TIME"],
    ])  # fmt: skip
    code, seen = on_a_terminal(folder, "watch", "w.yaml")
    assert (code, tree(seen)) == (0, tree(here))
    assert "demo: ended with exit 0" in seen
    code, there = on_a_terminal(folder, "run", "w.yaml", "--watch", "--no-cache")
    assert (code, [line.split()[1:5] for line in tree(there)]) == (0, [line.split()[1:5] for line in tree(here)])
    assert "▶" in there  # drawn while it ran


def test_ctrl_c_leaves_the_run_alone(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(LONG)
    for words in (["run", "w.yaml", "--watch"], ["watch", "w.yaml"]):
        watching = subprocess.Popen(
            [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=heeding_ctrl_c,
        )  # fmt: skip
        wait_for(tmp_path / "runs/demo/stages/a" / "work" / "f")
        time.sleep(1.0)
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=60)
        assert watching.returncode == 130
        assert "goes on" in err
        assert "running (new)" in out + err
        assert "demo: running (process" in call(tmp_path, "status").stdout
    assert call(tmp_path, "stop").stdout == "demo is stopped\n"
    assert call(tmp_path, "watch").stdout.splitlines()[-1] == "demo: ended with exit 75"


def test_a_driver_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(LONG)
    started = call(tmp_path, "run", "w.yaml", "--detach").stdout
    wait_for(tmp_path / "runs/demo/stages/a" / "work" / "f")
    watching = subprocess.Popen([*COMMAND, "watch"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    os.kill(int(started.split()[1]), signal.SIGKILL)
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert out.splitlines()[-2].split()[1:3] == ["a", "interrupted"]
    assert out.splitlines()[-1] == "demo: was interrupted"


def test_what_comes_from_events_alone(tmp_path: Path) -> None:
    events = [
        {"time": 1.0, "run": "x", "event": "run_start", "name": "old", "stages": {"z": {"uses": "md", "needs": []}}},
        {"time": 2.0, "run": "y", "event": "run_start", "name": "demo", "stages": ["loop"]},
        {"time": 3.0, "run": "x", "event": "state", "stage": "loop", "state": "failed"},
        {"time": 4.0, "run": "y", "event": "grown", "stage": "loop", "name": "demo",
         "stages": {"loop.01.a": {"uses": "md", "needs": ["q"]}, "loop": {"uses": "loop", "needs": []}}},
        {"time": 5.0, "run": "y", "event": "progress", "stage": "loop.01.a", "done": 1, "total": 2},
        {"time": 6.0, "run": "y", "event": "state", "stage": "loop.01.a", "state": "running", "reason": "new"},
        {"time": 7.0, "run": "y", "event": "state", "stage": "unheard", "state": "running"},
    ]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"half')
    notes = Notes()
    follower = Follower(Store(tmp_path), notes)  # type: ignore[arg-type]
    follower.poll()
    follower.poll()
    assert [told[0] for told in notes.told] == ["start", "grown", "progress", "state"]
    assert (notes.told[0][1].name, list(notes.told[0][1].tasks), notes.told[0][2]) == ("demo", ["loop"], 2.0)
    assert notes.told[1][1].tasks["loop.01.a"].needs == ("q",)
    assert notes.told[3][1:] == ("loop.01.a", "running", "new", 6.0)
    assert follower.is_over()
    follower.finish()
    assert [told[:3] for told in notes.told[4:]] == [("state", "loop.01.a", "interrupted"), ("finish", 7.0)]
    late = Follower(Store(tmp_path), Notes(), offset=(tmp_path / "events.jsonl").stat().st_size)  # type: ignore[arg-type]
    late.poll()
    assert not late.started
    (tmp_path / "manifest.json").write_text('{"stages": {"loop.01.a": {"state": "failed", "reason": "no"}}}')
    outcome = outcome_of(Store(tmp_path), 5)
    assert (outcome.code, outcome.seconds, outcome.failures[0].message) == (5, 5.0, "no")
