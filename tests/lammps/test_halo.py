"""The halo exchange over MPI, without LAMMPS."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from lammps_runs import run_program

from dpsim.lammps.packages import mpich_file, program_environment

pytestmark = pytest.mark.lammps


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_extend_and_fold(ranks: int, plugin: Path, tmp_path: Path) -> None:
    """Every row arrives once, ranks without atoms or ghosts included, and fold is the adjoint of extend."""
    program = Path(__file__).with_name("halo_program.py")
    argv = [str(mpich_file("mpiexec")), "-n", str(ranks), sys.executable, str(program), str(plugin)]
    code, text = run_program(argv, program_environment(None, 1), tmp_path, 120)
    assert code == 0, text[-3000:]
    found = re.search(r"adjoint (\S+) (\S+)", text)
    assert found, text
    assert float(found.group(1)) < 1e-14
    assert float(found.group(2)) < 1e-6
