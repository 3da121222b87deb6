"""``dpsim export --slurm`` with a real Slurm: told to save, queued again, and done in the next attempt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

COUNT = (
    "import sys, time, pathlib; out, work = map(pathlib.Path, sys.argv[1:3]); f = work / 'n'; "
    "k = int(f.read_text()) if f.exists() else 0; (work / 'starts').open('a').write(f'{k} ')\\n"
    "while k < 40:\\n"
    "    time.sleep(0.1); k += 1; t = work / 't'; t.write_text(str(k)); t.replace(f)\\n"
    "(out / 'r').write_text((work / 'starts').read_text())"
)
WORKFLOW = f"""
dpsim: 1
name: script
stages:
  a:
    uses: command
    run: ["{{python}}", -c, "{COUNT}", "{{out}}", "{{work}}"]
    outputs: [r]
    resources: {{memory: 300 MB, cpus: 2}}
  b: {{uses: command, run: [cp, "{{inputs.i}}", "{{out}}/s"], inputs: {{i: a}}, outputs: [s]}}
"""


def wait(condition: Callable[[], object], told: Callable[[], str]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.1)


def test_stopped_queued_again_and_done(tmp_path: Path, slurm: Any) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "w.yaml").write_text(WORKFLOW)

    def call(*words: str) -> str:
        environment = {**os.environ, **slurm.environment}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fact(name: str) -> str:
        text = slurm.command("scontrol", "show", "job", "-o", job)
        return next((word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")), "")

    def printed() -> str:
        return slurm.command("scontrol", "show", "job", job) + "".join(
            path.read_text() for path in folder.glob("slurm-*.out")
        )

    call(sys.executable, "-m", "dpsim", "export", "w.yaml", "--slurm", "--walltime", "10 min", "-j", "2")
    job = call("sbatch", "--parsable", "script.sbatch").strip()
    assert (fact("JobName"), fact("TimeLimit"), fact("NumCPUs")) == ("script", "00:10:00", "2")
    work = folder / "runs" / "script" / "stages" / "a" / "work"
    wait(lambda: (work / "n").exists(), printed)
    slurm.command("scancel", "--batch", "--signal=TERM", job)  # as Slurm does before the end of the time
    wait(lambda: fact("Restarts") == "1" and fact("JobState") == "PENDING", printed)
    time.sleep(3)  # until nothing is left of the first attempt
    slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")  # requeued jobs wait for two minutes else
    wait(lambda: fact("JobState") == "COMPLETED", printed)
    starts = (folder / "runs/script/stages/b/out/s").read_text().split()
    assert starts[0] == "0"
    assert len(starts) == 2
    assert 0 < int(starts[1]) < 40
    manifest = json.loads((folder / "runs/script/manifest.json").read_text())
    assert (manifest["exit"], manifest["host"]["slurm_job"]) == (0, job)
    assert [attempt["exit"] for attempt in manifest["stages"]["a"]["attempts"]] == [75, 0]
    assert "dpsim: queued again" in printed()
