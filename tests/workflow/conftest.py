"""Small workflows of ``command`` stages, which run in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.workflow.driver.outcome import Outcome
from dpsim.workflow.driver.progress import SilentView
from dpsim.workflow.driver.runner import Runner, RunOptions
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.planning.resources import Machine

CHAIN = """
dpsim: 1
name: chain
stages:
  a: {uses: command, run: [sh, -c, "echo one > {out}/x.txt; echo a >> ../../../../ran.txt"], outputs: {x: x.txt}}
  b:
    uses: command
    run: [sh, -c, "cat {inputs.i} {inputs.i} > {out}/y.txt; echo b >> ../../../../ran.txt"]
    inputs: {i: a.x}
    outputs: {y: y.txt}
"""

Write = Callable[..., Path]
Run = Callable[..., Outcome]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a workflow file into the temporary folder."""

    def write(text: str = CHAIN, name: str = "w.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a workflow file in this process, with ``run`` as run directory."""

    def run(path: Path, *, cpus: int = 2, overrides: tuple[str, ...] = (), **options: object) -> Outcome:
        plan = load(path, overrides=overrides)
        chosen = RunOptions(**options)  # type: ignore[arg-type]
        return Runner(plan, tmp_path / "run", Machine(cpus, 0), SilentView(), chosen).run()

    return run


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[], list[str]]:
    """Return the stages that really ran, in order, and forget them."""

    def ran() -> list[str]:
        path = tmp_path / "run" / "ran.txt"
        if not path.exists():
            return []
        lines = path.read_text().split()
        path.unlink()
        return lines

    return ran


def plan_of(path: Path) -> Plan:
    """Plan a file without looking at the files it names."""
    return load(path, check_files=False)
