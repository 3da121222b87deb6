"""Killing anything at any moment loses nothing: the next run gives the same artifacts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.store import Store

# Each stage counts to five in its work folder, half a tenth of a second each, and goes on where it was.
COUNT = (
    "import sys, time, pathlib; out, work = map(pathlib.Path, sys.argv[1:3]); f = work / 'n'; "
    "n = int(f.read_text()) if f.exists() else 0\\n"
    "while n < 5:\\n"
    "    time.sleep(0.05); n += 1; t = work / 't'; t.write_text(str(n)); t.replace(f)\\n"
    "(out / 'r').write_text(f'{n} ' + ''.join(pathlib.Path(p).read_text() for p in sys.argv[3:]))"
)
# Two ranks do so, each in a folder of its own; the first waits for the other and writes both counts.
RANKS = """
import os, pathlib, sys, time
out, work, rank = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), os.environ["PMI_RANK"]
f = work / rank
n = int(f.read_text()) if f.exists() else 0
while n < 5:
    time.sleep(0.05)
    n += 1
    t = work / f"{rank}.new"
    t.write_text(str(n))
    t.replace(f)
while rank == "0" and not ((work / "1").exists() and (work / "1").read_text() == "5"):
    time.sleep(0.02)
if rank == "0":
    (out / "r").write_text(f"{n} both")
"""
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SLOW = f"""
dpsim: 1
name: slow
stages:
  a: {{uses: command, run: ["{{python}}", -c, "{COUNT}", "{{out}}", "{{work}}"], outputs: [r]}}
  b:
    uses: command
    run: ["{MPIEXEC}", -n, "2", "{{python}}", "{{inputs.program}}", "{{out}}", "{{work}}"]
    inputs: {{program: {{path: ranks.py}}}}
    outputs: [r]
  c:
    uses: command
    run: ["{{python}}", -c, "{COUNT}", "{{out}}", "{{work}}", "{{inputs.a}}", "{{inputs.b}}"]
    inputs: {{a: a, b: b}}
    outputs: [r]
"""


def start(folder: Path, *options: str, workflow: str = SLOW) -> subprocess.Popen[str]:
    """Start ``dpsim run`` on the slow workflow, or another."""
    (folder / "w.yaml").write_text(workflow)
    (folder / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], limit: float = 120) -> tuple[int, str]:
    output, _ = process.communicate(timeout=limit)
    return process.returncode, output


def artifacts(folder: Path) -> dict[str, str]:
    return {name: Digester().path(entry.out) for name, entry in Store(folder / "run").linked().items()}


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes of the stages, which the nursery has forked."""
    try:
        return [stage for nursery in psutil.Process(process.pid).children() for stage in nursery.children()]
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artifacts of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    code, output = finish(start(folder))
    assert code == 0, output
    return artifacts(folder)


def is_rank(process: psutil.Process) -> bool:
    try:
        return "PMI_RANK" in process.environ()
    except psutil.Error:
        return False


def targets(process: subprocess.Popen[str], what: str) -> list[psutil.Process]:
    """Return what of a run may be killed now: the driver, its stages, or the ranks of a stage that has several."""
    try:
        driver = psutil.Process(process.pid)
        found = {
            "driver": lambda: [driver],
            "stage": lambda: workers(process),
            "rank": lambda: [one for one in driver.children(recursive=True) if is_rank(one)],
        }
        return found[what]()
    except psutil.Error:
        return []


def kill_something(process: subprocess.Popen[str], what: str, rng: random.Random) -> bool:
    """Kill something of a run at a random moment after it was first seen; return whether it was hit."""
    while not targets(process, what) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.6) + (0.5 if what == "driver" else 0.0))
    found = targets(process, what)
    with contextlib.suppress(psutil.Error):
        if found and process.poll() is None:
            rng.choice(found).kill()
            return True
    return False


def kill_and_go_on(folder: Path, moments: int, seed: int) -> None:
    """Run, kill, run again until something was hit so many times; what is left then is finished."""
    rng, hit, number = random.Random(seed), 0, 0
    while hit < moments:
        number += 1
        assert number < 10 * moments, "the runs end before anything can be killed"
        process = start(folder)
        hit += kill_something(process, ("rank", "stage", "driver")[number % 3], rng)
        code, output = finish(process)
        assert code in (0, 5, -signal.SIGKILL), output
        for entry in list(Store(folder / "run").entries()) if code == 0 else []:
            if rng.random() < 0.7:  # so that there is something left to kill
                shutil.rmtree(entry.path)
    code, output = finish(start(folder))
    assert code == 0, output


def test_kill_at_three_moments(tmp_path: Path, unbroken: dict[str, str]) -> None:
    kill_and_go_on(tmp_path, 3, seed=1)
    assert artifacts(tmp_path) == unbroken


@pytest.mark.slow
def test_kill_at_twenty_moments(tmp_path: Path, unbroken: dict[str, str]) -> None:
    """The driver, a stage or one rank: every run after it ends in the artifacts of a run that nothing disturbed."""
    kill_and_go_on(tmp_path, 20, seed=2)
    assert artifacts(tmp_path) == unbroken
    assert not list((tmp_path / "run").glob("store/*/*/lock"))
    assert not list((tmp_path / "run").glob("store/*/*/.out.*"))


TRAINING = """
dpsim: 1
name: ranks
type_map: [Cu]
stages:
  label:
    uses: label
    structures: {prototype: fcc, element: Cu, supercell: [2, 2, 2], rattle: 0.1 angstrom, count: 8}
    calculator: {name: emt}
  data: {uses: convert, from: label.frames}
  model:
    uses: train
    data: data
    model: {preset: dpa3-tiny}
    steps: 100
    batch_size: 2
    checkpoint_every: 5
    resources: {ranks: 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_ranks_of_a_training(tmp_path: Path) -> None:
    """One of two processes that train together is killed: the same command goes on to the same weights."""
    files: dict[str, dict[str, str]] = {}
    for name in ("whole", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        rng, hit = random.Random(3), 0
        while True:
            process = start(folder, workflow=TRAINING)
            while name == "broken" and hit < 3 and process.poll() is None:
                time.sleep(0.02)
                if not any((folder / "run").glob("store/*/*/work/*.ckpt")):
                    continue
                time.sleep(rng.uniform(0.0, 1.0))
                with contextlib.suppress(psutil.Error):  # the stage itself is the first rank and starts the other
                    found = [rank for first in workers(process) for rank in (first, *first.children())]
                    if len(found) >= 2:
                        rng.choice(found).kill()
                        hit += 1
                        break
            code, output = finish(process, 580)
            if code == 0:
                break
            assert hit, output
        out = folder / "run" / "stages" / "model" / "out"
        files[name] = {file: Digester().path(out / file) for file in ("best.safetensors", "last.safetensors")}
        assert name == "whole" or hit >= 2
    assert files["broken"] == files["whole"]


def test_a_killed_stage_goes_on_from_its_work_folder(tmp_path: Path) -> None:
    process = start(tmp_path, "-j", "1")
    work = tmp_path / "run" / "stages" / "a" / "work" / "n"
    while not work.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(workers(process)[0].pid, signal.SIGKILL)
    code, output = finish(process)
    assert code == 5
    assert "was ended by signal 9 (Killed), as happens when the machine runs out of memory" in output
    reached = int(work.read_text())
    assert reached >= 1
    work.write_text("4")  # if it went on from here, one step is left
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert "unfinished, goes on from its work folder" in output


def test_nothing_of_a_killed_stage_stays_alive(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\nstages:\n  a: {uses: command, run: [sh, -c, 'setsid sleep 987 & sleep 987'], outputs: [x]}\n"
    )
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mine: list[psutil.Process] = []
    while len(mine) < 2:
        assert process.poll() is None
        time.sleep(0.05)
        mine = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "sleep"]
    workers(process)[0].kill()
    assert process.wait(60) == 5
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert not alive


def test_a_stage_whose_driver_was_killed_stops(tmp_path: Path) -> None:
    process = start(tmp_path, "-j", "1")
    while not list((tmp_path / "run").rglob("n")):  # the first stage counts
        assert process.poll() is None
        time.sleep(0.01)
    running = workers(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(running, timeout=30)
    assert not alive
    assert not list((tmp_path / "run").glob("store/*/*/lock"))


def test_two_drivers_run_each_stage_once(tmp_path: Path, unbroken: dict[str, str]) -> None:
    first, second = start(tmp_path), start(tmp_path)
    for process in (first, second):
        code, output = finish(process)
        assert code == 0, output
    assert artifacts(tmp_path) == unbroken
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    usage = [event["stage"] for event in events if event["event"] == "usage"]
    assert sorted(usage) == ["a", "b", "c"]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_signals(tmp_path: Path, unbroken: dict[str, str], number: signal.Signals, expected: int) -> None:
    process = start(tmp_path)
    while not workers(process):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(number)
    code, output = finish(process)
    assert code == expected, output
    assert "the same command goes on from here" in output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert {"interrupted", "waiting"} & {record["state"] for record in manifest["stages"].values()}
    assert manifest["exit"] == expected
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert artifacts(tmp_path) == unbroken


def test_a_stage_stopped_from_outside_is_no_failure_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\nstages:\n  a: {uses: command, run: [sh, -c, 'touch {work}/n; exec sleep 600'], retries: 3}\n"
    )
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "run" / "stages" / "a" / "work" / "n").exists():
        assert process.poll() is None
        time.sleep(0.02)
    workers(process)[0].terminate()
    code, output = finish(process)
    assert code == 75
    assert "stage 'a' failed: was stopped by a signal from outside; run again to go on" in output


def test_a_killed_nursery_is_replaced(tmp_path: Path, unbroken: dict[str, str]) -> None:
    """What it forked is ended with it, since nobody would learn how it ended; the same command goes on."""
    process = start(tmp_path, "-j", "1")
    while not (tmp_path / "run" / "stages" / "a" / "work" / "n").exists():
        assert process.poll() is None
        time.sleep(0.01)
    stages = workers(process)
    psutil.Process(process.pid).children()[0].kill()
    code, output = finish(process)
    assert code == 5
    assert "was ended by signal 9" in output
    _, alive = psutil.wait_procs(stages, timeout=10)
    assert not alive
    code, output = finish(start(tmp_path, "--set", "stages.a.retries=1"))
    assert code == 0, output
    assert artifacts(tmp_path) == unbroken


def test_a_stage_is_tried_again_after_its_nursery_was_killed(tmp_path: Path, unbroken: dict[str, str]) -> None:
    process = start(tmp_path, "--set", "stages.a.retries=1", "--set", "stages.b.retries=1")
    while not (tmp_path / "run" / "stages" / "a" / "work" / "n").exists():
        assert process.poll() is None
        time.sleep(0.01)
    psutil.Process(process.pid).children()[0].kill()
    code, output = finish(process)
    assert code == 0, output
    assert "trying again" in output
    assert artifacts(tmp_path) == unbroken
