"""Stages are forked from a process that has imported nothing heavy, and are like new interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.workflow.executors.nursery import LIGHT
from dpsim.workflow.planning.load import load
from dpsim.workflow.stages import STAGE_TYPES

Write = Callable[..., Path]
Run = Callable[..., object]


def test_nothing_heavy_is_imported_before_the_fork() -> None:
    """Threads and environment of numpy and torch belong to the stage."""
    code = (
        "import sys, psutil\nfrom dpsim.workflow import worker\nfrom dpsim.workflow.stages import find_stage_type\n"
        f"for name in {sorted(LIGHT)!r}: find_stage_type(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "torch", "ase", "scipy", "mpi4py"}
    assert set(STAGE_TYPES) >= LIGHT


def test_a_forked_stage_has_what_a_new_interpreter_has(write: Write, run: Run, tmp_path: Path) -> None:
    look = (
        "import os, sys; out = sys.argv[1]; print('said'); "
        "open(out + '/fds', 'w').write(' '.join(sorted(os.readlink(f'/proc/{os.getppid()}/fd/{n}').split(':')[0] "
        "for n in os.listdir(f'/proc/{os.getppid()}/fd')))); "
        "open(out + '/env', 'w').write(os.environ['OMP_NUM_THREADS'] + os.environ['CUDA_VISIBLE_DEVICES']); "
        "open(out + '/session', 'w').write(str(os.getsid(0) == os.getppid()))"
    )
    text = f"""
dpsim: 1
stages:
  a: {{uses: command, run: ["{{python}}", -c, "{look}", "{{out}}"], outputs: [fds, env, session]}}
  b: {{uses: command, run: ["{{python}}", -c, "{look}", "{{out}}"], outputs: [fds, env, session], env: {{X: y}}}}
"""
    assert run(write(text)).failures == []
    out = {name: tmp_path / "run" / "stages" / name / "out" for name in "ab"}
    for file in ("env", "session"):
        assert (out["a"] / file).read_text() == (out["b"] / file).read_text()
    assert (out["a"] / "session").read_text() == "True"
    kinds = [(out[name] / "fds").read_text().split() for name in "ab"]
    assert len(kinds[0]) <= len(kinds[1])  # descriptors of the driver or of other stages are not handed down
    assert "said" in (tmp_path / "run" / "stages" / "a" / "log.txt").read_text()


def many(count: int) -> str:
    lines = ["dpsim: 1", "stages:"]
    for i in range(count):
        needs = f", inputs: {{i: s{i - 5}.x}}" if i >= 5 else ""
        lines.append(f"  s{i}: {{uses: command, run: [sh, -c, 'echo {i} > {{out}}/x'], outputs: {{x: x}}{needs}}}")
    return "\n".join(lines) + "\n"


def test_many_small_stages_start_one_interpreter(
    write: Write, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a stage costs beside its own work is one fork and one flush of the driver's disk at most."""
    calls = {"start": 0, "flush": 0}
    start, flush = subprocess.Popen, os.fsync

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr("subprocess.Popen", counted("start", start))
    monkeypatch.setattr("os.fsync", counted("flush", flush))
    assert set(run(write(many(30))).states.values()) == {"done"}
    assert calls["start"] == 1
    assert calls["flush"] <= 30
    calls.update(start=0, flush=0)
    assert set(run(tmp_path / "w.yaml").states.values()) == {"cached"}
    assert (calls["start"], calls["flush"] < 10) == (0, True)


def test_a_thousand_stages_are_planned_quickly(write: Write) -> None:
    began = time.process_time()
    plan = load(write(many(1000)))
    assert len(plan.order) == 1000
    assert time.process_time() - began < 10  # a fifth of a second where it was written
