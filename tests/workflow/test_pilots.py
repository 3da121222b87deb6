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

from dpsim.workflow.executors.pilot import _accelerators, _init_lines
from dpsim.workflow.records import tickets
from dpsim.workflow.records.store import Store

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

ENSEMBLE = """
dpsim: 1
name: models
type_map: [Cu]
profiles:
  c: {fanout: parsl, pilot: {cpus: 2}, poll: 1 s}
stages:
  seed:
    uses: label
    structures: {prototype: fcc, element: Cu, supercell: [2, 1, 1], rattle: 0.08 angstrom, count: 4}
    calculator: {name: emt}
  data: {uses: convert, from: seed.frames, split: {train: 0.5, valid: 0.5}}
  fit:
    uses: train
    data: data
    model: {descriptor: {type: se_e2_r, rcut: 4.0, rcut_smth: 1.0, sel: [30], neuron: [4]}, fitting: {neuron: [4]}}
    steps: 4
    batch_size: 1
    ensemble: 2
    resources: {cpus: 1}
"""


def start(folder: Path, values: str, extra: str = "") -> subprocess.Popen[str]:
    (folder / "w.yaml").write_text(TEXT.format(values=values, extra=extra))
    return call(folder)


def call(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run", "--profile", "c"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def jobs_of(folder: Path, task: str) -> list[Path]:
    """Return the folders of the jobs that a task has had."""
    return [path for path in (Store(folder / "run").linked()[task].path / "job").iterdir() if path.is_dir()]


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


def test_models_of_an_ensemble_share_a_pilot(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(ENSEMBLE)
    code, output = finish(call(tmp_path))
    assert code == 0, output
    linked = Store(tmp_path / "run").linked()
    for task in ("fit@member=1", "fit@member=2"):
        ticket = tickets.read_ticket(linked[task])
        assert ticket is not None
        assert (ticket.executor, ticket.state) == ("parsl", "over")
    assert tickets.read_ticket(linked["data"]) is None
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    (one,), (two,) = (stages[f"fit@member={k}"]["attempts"] for k in (1, 2))
    assert max(one["start"], two["start"]) < min(one["end"], two["end"])  # side by side
    best = [(linked[f"fit@member={k}"].out / "best.safetensors").read_bytes() for k in (1, 2)]
    assert best[0] != best[1]


def test_a_point_that_fails(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "0.1, nonsense"))
    assert code == 5, output
    assert "'sh' returned 1" in output


def test_a_killed_driver_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """What was done stays done; what ran is begun again by the next driver, which says so."""
    first = start(tmp_path, "0.1, 6")
    stages = tmp_path / "run" / "stages"
    work, done = stages / "m@T=6" / "work" / "n", stages / "m@T=0.1" / "outputs.json"
    end = time.monotonic() + 60
    while not (work.exists() and done.exists()):
        assert first.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    record = json.loads((tmp_path / "run" / "parsl" / "pilots.json").read_text())
    first.kill()
    first.wait()  # not communicate(): the pilot holds the other end of its output
    code, output = finish(start(tmp_path, "0.1, 6"))
    assert code == 0, output
    assert "m@T=6: its pilot ended with the driver before this one; it is started again in another" in output
    assert "m@T=0.1: its pilot" not in output
    assert len(jobs_of(tmp_path, "m@T=0.1")) == 1
    assert not any(psutil.pid_exists(pid) for pid in record["processes"])
    assert len(jobs_of(tmp_path, "m@T=6")) == 2
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
