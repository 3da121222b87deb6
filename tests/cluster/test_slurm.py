"""Stages as jobs of a real Slurm: finished, cancelled, out of time, on a node that fails, found again.

Time spent here is waiting for Slurm; all together take less than two minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import count, workflow

from dpsim.workflow.records import tickets
from dpsim.workflow.records.store import Entry, Store

pytestmark = pytest.mark.slurm


class Run:
    """A run in a folder, with Slurm's configuration in its environment."""

    def __init__(self, folder: Path, slurm: Any) -> None:
        self.folder, self.slurm = folder, slurm
        self.started: list[subprocess.Popen[str]] = []

    def write(self, stages: str, extra: str = "") -> None:
        (self.folder / "w.yaml").write_text(workflow(stages, "Slurm", "1 s", extra))

    def dpsim(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dpsim.cli.main", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.slurm.environment},
        )
        self.started.append(process)
        return process

    def start(self, *options: str) -> subprocess.Popen[str]:
        return self.dpsim("run", "w.yaml", "--run-dir", "run", "--profile", "c", *options)

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def entry(self, stage: str = "a") -> Entry:
        return Store(self.folder / "run").linked()[stage]

    def submissions(self, stage: str = "a") -> int:
        return len([path for path in (self.entry(stage).path / "job").iterdir() if path.is_dir()])

    def job_id(self, stage: str = "a") -> str:
        ticket = tickets.read_ticket(self.entry(stage))
        return ticket.job_id if ticket is not None else ""

    def wait(self, condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, self.slurm.command("squeue")
            time.sleep(0.05)

    def counting(self, stage: str = "a") -> bool:
        return (self.folder / "run" / "stages" / stage / "work" / "n").exists()

    def state(self, job_id: str) -> str:
        text = self.slurm.command("scontrol", "show", "job", "-o", job_id)
        return next((word[9:] for word in text.split() if word.startswith("JobState=")), "")


@pytest.fixture
def run(tmp_path: Path, slurm: Any) -> Iterator[Run]:
    found = Run(tmp_path, slurm)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    slurm.command("scancel", "--user=root")


def test_submitted_and_finished(run: Run) -> None:
    run.write(
        f"  a: {count(20, resources='{walltime: 10 min, memory: 200 MB, cpus: 2, partition: main}')}\n"
        "  b: {uses: command, run: [cat, '{inputs.i}'], inputs: {i: a}, env: {A: b}}\n"
    )
    process = run.start()
    run.wait(run.counting, process)
    shown = run.slurm.command("squeue", "-h", "-o", "%j %l %C %m %T")
    assert shown.split() == ["jobs.a", "10:00", "2", "191M", "RUNNING"]
    watched, _ = run.dpsim("status", "run").communicate(timeout=30)
    assert f"job {run.job_id()} on node" in watched
    code, output = run.finish(process)
    assert code == 0, output
    assert f"running (job {run.job_id('a')} on node" in output
    assert (run.entry().out / "r").read_text() == "20"
    logs, _ = run.dpsim("logs", "a", "run").communicate(timeout=30)
    assert "counted to 20" in logs


def test_cancelled_while_running(run: Run) -> None:
    run.write(f"  a: {count(3000)}\n")
    process = run.start()
    run.wait(run.counting, process)
    process.send_signal(signal.SIGINT)
    code, output = run.finish(process)
    assert code == 130, output
    assert json.loads(next((run.entry().path / "job").glob("*/exit.json")).read_text())["code"] == 75
    end = time.monotonic() + 15
    while run.slurm.command("squeue", "-h").strip():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_cancelled_while_queued(run: Run) -> None:
    later = "{cpus: 2, lines: ['#SBATCH --begin=now+1hour']}"
    run.write(f"  a: {count(3000, resources=later)}\n")
    process = run.start()
    events = run.folder / "run/events.jsonl"
    run.wait(lambda: events.exists() and "BeginTime" in events.read_text(), process)
    process.send_signal(signal.SIGTERM)
    code, output = run.finish(process)
    assert code == 75, output
    assert "queued (job" in output
    assert run.state(run.job_id()) == "CANCELLED"


def test_cancelled_by_somebody_else(run: Run) -> None:
    run.write(f"  a: {count(3000)}\n")
    process = run.start()
    run.wait(run.counting, process)
    run.slurm.command("scancel", run.job_id())
    code, output = run.finish(process)
    assert code == 75, output
    assert f"job {run.job_id()} was cancelled on the cluster; run again to go on" in output
    assert run.submissions() == 1


def test_the_driver_is_killed_and_the_job_found_again(run: Run) -> None:
    run.write(f"  a: {count(60)}\n")
    first = run.start()
    run.wait(run.counting, first)
    first.kill()
    first.communicate()
    job_id = run.job_id()
    assert run.state(job_id) == "RUNNING"
    code, output = run.finish(run.start())
    assert code == 0, output
    assert f"job {job_id}; found again" in output
    assert (run.submissions(), run.job_id()) == (1, job_id)
    assert (run.entry().path / "work" / "starts").read_text() == "x"


def test_the_driver_dies_before_it_wrote_the_number(run: Run) -> None:
    run.write(f"  a: {count(60)}\n")
    first = run.start()
    run.wait(run.counting, first)
    first.kill()
    first.communicate()
    entry, job_id = run.entry(), run.job_id()
    ticket = tickets.read_ticket(entry)
    assert ticket is not None
    tickets.write_ticket(entry, ticket, state="submitting", job_id="")
    for path in tickets.folder(entry, ticket.ticket).glob("*"):
        if path.name.endswith("_job_id") or path.name == "started.json":
            path.unlink()
    code, output = run.finish(run.start())
    assert code == 0, output
    assert (run.submissions(), run.job_id()) == (1, job_id)  # Slurm knew it by the comment of the job


def test_a_node_fails(run: Run) -> None:
    run.write(f"  a: {count(50)}\n")
    process = run.start()
    run.wait(run.counting, process)
    job_id = run.job_id()
    node = run.slurm.command("squeue", "-h", "-j", job_id, "-o", "%N").strip()
    run.slurm.fail_node(node)
    try:
        code, output = run.finish(process)
        assert code == 0, output
        assert f"was taken away by the cluster; goes on in another job (job {job_id} ended (NODE_FAIL)" in output
        assert run.submissions() == 2
        assert (run.entry().path / "work" / "starts").read_text() == "xx"
        attempts = json.loads((run.folder / "run/manifest.json").read_text())["stages"]["a"]["attempts"]
        assert [attempt["job_id"] for attempt in attempts] == [job_id, run.job_id()]
    finally:
        run.slurm.repair_node(node)


def test_the_time_limit_stops_a_job_and_another_goes_on(run: Run) -> None:
    # dpsim does not know of the limit here, so that only Slurm's signal tells the stage to save.
    lines = '["#SBATCH --time=1", "#SBATCH --signal=B:TERM@50"]'
    run.write(f"  a: {count(400, resources=f'{{lines: {lines}}}')}\n")
    process = run.start()
    run.wait(run.counting, process)
    job_id = run.job_id()
    run.wait(lambda: run.job_id() != job_id, process)
    reached = int((run.entry().path / "work" / "n").read_text())
    assert json.loads(next((run.entry().path / "job").glob("*/exit.json")).read_text())["code"] == 75
    assert 0 < reached < 400
    run.write(f"  a: {count(400)}\n")
    process.kill()
    process.communicate()


def test_mpi_ranks_inside_of_an_allocation(run: Run) -> None:
    pytest.importorskip("mpi4py")
    code = "from mpi4py import MPI; c = MPI.COMM_WORLD; print(f'rank {c.rank} of {c.size}', flush=True)"
    launcher = Path(sys.executable).with_name("mpiexec")
    if not launcher.exists():
        pytest.skip("no mpiexec of the package mpich")
    words = f'["{launcher}", -n, "{{ranks}}", "{{python}}", -c, "{code}"]'
    run.write(f"  a: {{uses: command, run: {words}, resources: {{ranks: 2, walltime: 5 min}}}}\n")
    code_, output = run.finish(run.start())
    assert code_ == 0, output
    log = run.entry().log.read_text()
    assert "rank 0 of 2" in log
    assert "rank 1 of 2" in log


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{queue: nowhere}", "sbatch: error: invalid partition specified: nowhere"),
        ("{nodes: 9}", "sbatch: error: Batch job submission failed: "),
        ("{partition: small, walltime: 10 min}", "Requested time limit is invalid"),
        ("{lines: ['#SBATCH --nonsense=1']}", "unrecognized option '--nonsense=1'"),
    ],
)
def test_a_job_that_is_refused(run: Run, resources: str, expected: str) -> None:
    run.write(f"  a: {count(1, resources=resources)}\n")
    code, output = run.finish(run.start())
    assert code == 6, output
    assert "Slurm did not take the job jobs.a: " in output
    assert expected in output


def test_points_of_a_matrix_share_a_pilot(run: Run) -> None:
    pytest.importorskip("parsl")
    run.write(
        "  m:\n    uses: command\n    run: [sh, -c, 'echo $SLURM_JOB_ID > {out}/id']\n    outputs: [id]\n"
        "    matrix: {T: [1, 2, 3]}\n    seed: '${matrix.T}'\n",
        "fanout: parsl\n    pilot: {cpus: 2, walltime: 5 min, partition: main}",
    )
    code, output = run.finish(run.start())
    assert code == 0, output
    assert "pilot on node" in output
    jobs = {(entry.out / "id").read_text().strip() for entry in Store(run.folder / "run").linked().values()}
    assert len(jobs) == 1
    assert run.state(jobs.pop()) in ("CANCELLED", "COMPLETED")


def test_doctor(run: Run) -> None:
    output, _ = run.dpsim("doctor", "--slurm").communicate(timeout=60)
    assert "main* (2 nodes, 1:00:00), small (1 nodes, 1:00)" in output
    assert "sbatch" in output
