"""Stages as jobs: dpdispatcher's shell stands for a cluster, so that this needs no scheduler."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from counting import count, workflow

from dpsim.errors import Interrupted
from dpsim.workflow import job
from dpsim.workflow.executors.schedulers import cannot, head_lines, refused
from dpsim.workflow.records import tickets
from dpsim.workflow.records.store import Entry, Store
from dpsim.workflow.stage import Resources

pytestmark = pytest.mark.skipif(find_spec("dpdispatcher") is None, reason="dpdispatcher is not installed")


def write(folder: Path, stages: str, extra: str = "") -> None:
    """Write a workflow with a profile ``c``."""
    (folder / "w.yaml").write_text(workflow(stages, "Shell", "0.3 s", extra))


def start(folder: Path, *options: str, profile: str = "c") -> subprocess.Popen[str]:
    """Start ``dpsim run`` on it."""
    words = ["--profile", profile] if profile else []
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run", *words, *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def entry_of(folder: Path, stage: str = "a") -> Entry:
    return Store(folder / "run").linked()[stage]


def submissions(entry: Entry) -> int:
    """Return how many jobs were submitted for a stage."""
    return len([path for path in (entry.path / "job").iterdir() if path.is_dir()])


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def counting(folder: Path, stage: str = "a") -> bool:
    return (folder / "run" / "stages" / stage / "work" / "n").exists()


def test_a_stage_runs_as_a_job(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(3)}\n  b: {{uses: command, run: [cat, '{{inputs.i}}'], inputs: {{i: a}}}}\n")
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert "running (job " in output
    entry = entry_of(tmp_path)
    assert (entry.out / "r").read_text() == "3"
    assert "counted to 3" in entry.log.read_text()
    ticket = tickets.read_ticket(entry)
    assert ticket is not None
    assert (ticket.state, ticket.name, ticket.profile) == ("over", "jobs.a", "c")
    attempt = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]["a"]["attempts"][0]
    assert (attempt["job_id"], attempt["exit"]) == (ticket.job_id, 0)
    assert attempt["max_rss"] > 1e6
    assert finish(start(tmp_path))[0] == 0
    assert submissions(entry) == 1


def test_some_stages_stay_here(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(1)}\n  b: {count(1, seed='1')}\n", "here: [b]")
    assert finish(start(tmp_path))[0] == 0
    assert (entry_of(tmp_path, "a").path / "job.json").exists()
    assert not (entry_of(tmp_path, "b").path / "job.json").exists()


def test_the_driver_dies_and_the_job_is_found_again(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(40)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    status = subprocess.run(
        [sys.executable, "-m", "dpsim.cli.main", "status", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "when last seen; 'dpsim run' finds it again" in status.stdout
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert "found again" in output
    entry = entry_of(tmp_path)
    assert submissions(entry) == 1
    assert (entry.path / "work" / "starts").read_text() == "x"


def test_a_job_that_ended_meanwhile_is_not_submitted_again(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(10)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    entry = entry_of(tmp_path)
    end = time.monotonic() + 30
    while not entry.is_done():
        assert time.monotonic() < end
        time.sleep(0.1)
    code, output = finish(start(tmp_path))
    assert (code, submissions(entry)) == (0, 1), output
    assert "nothing to do" in output


@pytest.mark.parametrize("trace", ["number", "none"])
def test_the_driver_dies_while_it_submits(tmp_path: Path, trace: str) -> None:
    write(tmp_path, f"  a: {count(30)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    entry = entry_of(tmp_path)
    ticket = tickets.read_ticket(entry)
    assert ticket is not None
    tickets.write_ticket(entry, ticket, state="submitting", job_id="")  # as if it had not come to write the number
    if trace == "none":
        for path in tickets.folder(entry, ticket.ticket).iterdir():
            if path.name.endswith("_job_id") or path.name == "started.json":
                path.unlink()
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert submissions(entry) == (1 if trace == "number" else 2)
    if trace == "none":  # the first job lost its right to work: it stopped before the second one went on
        assert (entry.out / "r").read_text() == "30"


def test_a_job_without_its_ticket_does_nothing(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "store" / "ab" / ("ab" * 20))
    entry.path.mkdir(parents=True)
    tickets.write_ticket(entry, tickets.Ticket("new", "dpdispatcher", "Shell", None, "x.a"))
    command = [sys.executable, "-m", "dpsim.workflow.job", str(entry.path), "old"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "another job has its place" in done.stderr
    assert [path.name for path in entry.path.iterdir()] == ["job.json"]


def test_a_worker_that_dies_of_being_stopped_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(tmp_path / "store" / "ab" / ("ab" * 20))
    entry.path.mkdir(parents=True)
    (entry.path / "stage.json").write_text('{"resources": {"cpus": 1, "ranks": 1}, "options": {}}')
    (tmp_path / "python").write_text("#!/bin/sh\nkill -TERM $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(job.sys, "executable", str(tmp_path / "python"))
    for stopping, code in ((False, -signal.SIGTERM), (True, Interrupted.exit_code)):
        supervisor = job.Supervisor(entry, tickets.Ticket("mine", "dpdispatcher", "Shell", None, "x.a"))
        supervisor.stopping = stopping
        assert supervisor._attempt(fresh=False) == code
        assert supervisor.worker is not None
        assert supervisor.worker.stdin is not None
        supervisor.worker.stdin.close()


def test_a_worker_that_is_done_is_not_stopped(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "store" / "ab" / ("ab" * 20))
    entry.path.mkdir(parents=True)
    for name in ("stage.json", "outputs.json"):
        (entry.path / name).write_text("{}")
    code = (
        "import os, runpy, signal, sys\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM): kill(pid, number)\n"
        "sys.late = Late()\n"
        "runpy.run_module('dpsim.workflow.worker', run_name='__main__')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(entry.path)]).returncode == 0


def test_two_drivers_submit_once(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(10)}\n")
    first, second = start(tmp_path), start(tmp_path)
    for process in (first, second):
        code, output = finish(process)
        assert code == 0, output
    assert submissions(entry_of(tmp_path)) == 1


def test_the_time_of_a_job_is_over_and_the_next_goes_on(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(40, resources='{walltime: 3 s}')}\n")
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert "has used up the time of its job; goes on in another" in output
    entry = entry_of(tmp_path)
    assert submissions(entry) >= 2
    assert (entry.path / "work" / "starts").read_text() == "x" * submissions(entry)


def test_the_time_of_jobs_is_used_up(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(400, resources='{walltime: 3 s}')}\n", "retries: {walltime: 1}")
    code, output = finish(start(tmp_path))
    assert code == 75, output
    assert submissions(entry_of(tmp_path)) == 2


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_stops_its_jobs(tmp_path: Path, number: signal.Signals, expected: int) -> None:
    write(tmp_path, f"  a: {count(300)}\n")
    process = start(tmp_path)
    wait_for(lambda: counting(tmp_path), process)
    worker = json.loads(next((entry_of(tmp_path).path / "job").glob("*/started.json")).read_text())["pid"]
    process.send_signal(number)
    code, output = finish(process)
    assert code == expected, output
    end = time.monotonic() + 10
    while psutil.pid_exists(worker):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_stopped_run_leaves_its_jobs_if_told_to(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(40)}\n")
    process = start(tmp_path)
    wait_for(lambda: counting(tmp_path), process)
    stopped = subprocess.run(
        [sys.executable, "-m", "dpsim.cli.main", "stop", "run", "--detach"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 0, stopped.stderr
    code, output = finish(process)
    assert code == 75
    assert "is left alone; 'dpsim run' finds it again" in output
    code, output = finish(start(tmp_path))
    assert (code, submissions(entry_of(tmp_path))) == (0, 1), output


def test_a_job_that_vanishes_is_started_again(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(20)}\n")
    process = start(tmp_path)
    wait_for(lambda: counting(tmp_path), process)
    entry = entry_of(tmp_path)
    ticket = tickets.read_ticket(entry)
    assert ticket is not None
    job = psutil.Process(int(ticket.job_id))
    for one in (*job.children(recursive=True), job):
        one.kill()
    code, output = finish(process)
    assert code == 0, output
    assert output.count("was taken away by the cluster; goes on in another job") == 1
    assert submissions(entry) == 2
    attempts = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]["a"]["attempts"]
    assert len({attempt["job_id"] for attempt in attempts}) == len(attempts) == 2


def test_what_the_script_said_is_in_the_log(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(1)}\n", "python: /no/such/python")
    code, output = finish(start(tmp_path))
    assert code == 5, output
    assert "before its stage began; see its log" in output
    assert "/no/such/python" in entry_of(tmp_path).log.read_text()


def test_a_failed_stage_says_why(tmp_path: Path) -> None:
    write(tmp_path, "  a: {uses: command, run: [sh, -c, 'echo bad luck; exit 3'], retries: 1}\n")
    code, output = finish(start(tmp_path))
    assert code == 5, output
    assert "attempt 1 failed; trying again ('sh' returned 3" in output
    assert "bad luck" in output
    assert submissions(entry_of(tmp_path)) == 2


def test_this_machine_does_not_work_beside_a_job(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(30)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    code, output = finish(start(tmp_path, profile=""))
    assert code == 6, output
    assert "jobs.a is with job" in output
    assert "of Shell LazyLocalContext (profile 'c'): run with that profile" in output
    assert finish(start(tmp_path))[0] == 0


def test_a_job_for_an_older_declaration_is_named(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(200)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    old = entry_of(tmp_path)
    ticket = tickets.read_ticket(old)
    assert ticket is not None
    write(tmp_path, f"  a: {count(1)}\n")
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert f"a: job {ticket.job_id} of Shell LazyLocalContext is for what the stage was before" in output
    (tickets.folder(old, ticket.ticket) / "stop").touch()


def test_force_ends_the_job_that_works_on_it(tmp_path: Path) -> None:
    write(tmp_path, f"  a: {count(15)}\n")
    first = start(tmp_path)
    wait_for(lambda: counting(tmp_path), first)
    first.kill()
    first.communicate()
    code, output = finish(start(tmp_path, "--force", "a"))
    assert code == 0, output
    assert submissions(entry_of(tmp_path)) == 2
    assert (entry_of(tmp_path).path / "work" / "starts").read_text() == "x"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{nodes: 2}", "batch_type Shell runs on one node"),
        ("{queue: gpu}", "'queue' means nothing to batch_type Shell"),
    ],
)
def test_resources_that_cannot_be_passed_on(tmp_path: Path, resources: str, expected: str) -> None:
    write(tmp_path, f"  a: {count(1, resources=resources)}\n")
    code, output = finish(start(tmp_path))
    assert code == 6
    assert expected in output


def test_lines_of_schedulers() -> None:
    asked = Resources(walltime=5400.0, lines=["#SBATCH -A chem"])
    assert head_lines("Slurm", asked, "t", 2.0**34) == [
        "#SBATCH --no-requeue",
        "#SBATCH --comment=dpsim:t",
        "#SBATCH --time=90",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --mem=16384M",
        "#SBATCH -A chem",
    ]
    assert head_lines("PBS", Resources(walltime=5400.0), "t", None) == ["#PBS -l walltime=01:30:00"]
    assert head_lines("LSF", Resources(walltime=5400.0), "t", None) == ["#BSUB -W 90"]
    assert "'lines:'" in cannot("PBS", Resources(memory=1e9))
    assert cannot("Slurm", Resources(memory=1e9, nodes=2, queue="x")) == ""


def test_what_a_scheduler_refused() -> None:
    text = "command cd x && sbatch fails to execute\nerror message:sbatch: error: bad queue\nreturn code 1\n"
    assert refused(text) == "sbatch: error: bad queue"
    assert refused("no such file") == "no such file"


def test_the_signal_of_a_scheduler_reaches_the_stage_in_any_folder(tmp_path: Path) -> None:
    from dpsim.workflow.executors.dispatch import _trap

    file = tmp_path / "it's a folder" / "pid"
    file.parent.mkdir()
    script = f'sleep 60 & echo $! > "$1"; {_trap(str(file))}; kill -TERM $$; wait $!; echo $?'
    done = subprocess.run(["bash", "-c", script, "bash", file], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (f"{128 + signal.SIGTERM}\n", "")


def test_locks_of_jobs_that_are_over(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "store" / "ab" / ("ab" * 20))
    entry.path.mkdir(parents=True)
    lock = {"host": "elsewhere", "pid": 1, "start": 0.0, "since": "yesterday", "job": "t1"}
    entry.lock.write_text(json.dumps(lock))
    tickets.forget_locks(entry, ("t2",))
    assert entry.lock.exists()
    tickets.forget_locks(entry, ("t1", "t2"))
    assert not entry.lock.exists()
