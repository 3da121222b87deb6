"""Points of a matrix inside of pilots on this machine, through Parsl."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from dpsim.workflow.executors import tickets
from dpsim.workflow.executors.pilot import _accelerators, _init_lines
from dpsim.workflow.store import Store

pytestmark = pytest.mark.skipif(find_spec("parsl") is None, reason="parsl is not installed")

TEXT = """
dpsim: 1
name: points
resources: {{pair: {{cpus: 2}}}}
profiles:
  c: {{fanout: parsl, pilot: pair, poll: 1 s, here: []}}
stages:
  m:
    uses: command
    run: [sh, -c, "touch {{work}}/n; sleep ${{matrix.T}} && echo ${{matrix.T}} > {{out}}/x"]
    outputs: [x]
    matrix: {{T: [{values}]}}
    {extra}
  b: {{uses: command, run: ["true"]}}
"""


def start(folder: Path, values: str, extra: str = "") -> subprocess.Popen[str]:
    (folder / "w.yaml").write_text(TEXT.format(values=values, extra=extra))
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run", "--profile", "c"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def workers(folder: Path) -> list[psutil.Process]:
    """Return the processes of pilots that write into a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder / "run") in word for word in process.cmdline()) and process.pid != psutil.Process().pid:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_points_run_inside_of_a_pilot(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "0.1, 0.2, 0.3"))
    assert code == 0, output
    assert "pilot on" in output
    linked = Store(tmp_path / "run").linked()
    assert (linked["m@T=0.2"].out / "x").read_text() == "0.2\n"
    ticket = tickets.read_ticket(linked["m@T=0.1"])
    assert ticket is not None
    assert (ticket.executor, ticket.state) == ("parsl", "over")
    assert tickets.read_ticket(linked["b"]) is None  # it has no points, so it ran here
    assert not (tmp_path / "run" / "parsl" / "pilots.json").exists()
    assert workers(tmp_path) == []


def test_a_point_that_fails(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "0.1, nonsense"))
    assert code == 5, output
    assert "'sh' returned 1" in output


def test_a_killed_driver_leaves_nothing_that_stays(tmp_path: Path) -> None:
    first = start(tmp_path, "6")
    work = tmp_path / "run" / "stages" / "m@T=6" / "work" / "n"
    end = time.monotonic() + 60
    while not work.exists():
        assert first.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    record = json.loads((tmp_path / "run" / "parsl" / "pilots.json").read_text())
    first.kill()
    first.wait()  # not communicate(): the pilot holds the other end of its output
    code, output = finish(start(tmp_path, "6"))
    assert code == 0, output
    assert not any(psutil.pid_exists(pid) for pid in record["processes"])
    folders = [path for path in (Store(tmp_path / "run").linked()["m@T=6"].path / "job").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert first.stdout is not None
    first.stdout.close()


def test_a_stage_larger_than_its_pilot(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "0.1", "resources: {cpus: 3}"))
    assert code == 6, output
    assert "the stage takes 3 cores, a pilot has 2; raise 'cpus' of the pilot" in output


def test_gpus_of_workers() -> None:
    assert _accelerators(4, 1) == ["0", "1", "2", "3"]
    assert _accelerators(4, 2) == ["0,1", "2,3"]
    assert _accelerators(4, 0) == []


def test_what_prepares_a_pilot() -> None:
    resources = {
        "module_list": ["mpi/4"],
        "source_list": ["a b.sh"],
        "envs": {"A": "x y"},
        "prepend_script": ["umask 7"],
    }
    assert _init_lines(resources).splitlines() == ["module load mpi/4", "source 'a b.sh'", "export A='x y'", "umask 7"]
