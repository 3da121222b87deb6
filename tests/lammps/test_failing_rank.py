"""What goes wrong on one rank ends all of them, within seconds and with one sentence."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import System, grid, head, run_program, symbols

from dpsim.lammps.launcher import lammps_command
from dpsim.lammps.packages import mpich_file, program_environment

pytestmark = pytest.mark.lammps

SECONDS = 60.0
"""Until a run counts as hanging; the machine may be busy, what is tested takes two."""


def _deck(folder: Path, model: Path | str, n: int = 40) -> str:
    system = System(grid(n, (12.0, 8.0, 8.0), 30), symbols(n, 30), np.diag([12.0, 8.0, 8.0]))
    deck = head(system, system.write(folder / "s.data", ("O", "H")), before="processors 2 1 1")
    return f"{deck}pair_style dpsim {model}\npair_coeff * * O H\n"


def _sentence(folder: Path, deck: str, ranks: int = 2) -> str:
    """The only error message of a run that fails."""
    (folder / "in.lammps").write_text(deck)
    argv, env = lammps_command(ranks, folder / "in.lammps", log="none", plugin=True)
    return _only_error(*run_program(argv, env, folder, SECONDS))


def _only_error(code: int, text: str) -> str:
    assert code != 0, text[-2000:]
    found = [line for line in text.splitlines() if line.startswith("ERROR")]
    assert len(found) == 1, text[-3000:]
    return found[0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_position_that_is_no_number(ranks: int, model64: Path, tmp_path: Path) -> None:
    """Between two neighbour lists, where LAMMPS itself does not look."""
    deck = _deck(tmp_path, model64).replace("processors 2 1 1", "")
    deck += "neigh_modify every 100 delay 100 check no\nfix n all nve\nset atom 7 vx 1e308\ntimestep 10.0\nrun 5\n"
    found = _sentence(tmp_path, deck, ranks)
    assert re.search(r"pair_style dpsim: the position of atom 7 is not a finite number at step 1; the dynamics", found)


def test_atoms_in_the_same_place(model64: Path, tmp_path: Path) -> None:
    deck = _deck(tmp_path, model64) + "create_atoms 1 single 9.0 4.0 4.0\ncreate_atoms 2 single 9.0 4.0 4.0\nrun 0\n"
    found = _sentence(tmp_path, deck)
    assert re.search(r"the force of atom \d+ is not a finite number at step 0; .* where atoms are too close", found)


def test_file_that_one_rank_cannot_see(model64: Path, tmp_path: Path) -> None:
    deck = _deck(tmp_path, "model.pt2") + "run 0\n"
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(tmp_path / "s.data", folder)
    shutil.copy(model64, folders[0] / "model.pt2")
    (folders[0] / "in.lammps").write_text(deck)
    argv, env = lammps_command(1, "in.lammps", log="none", plugin=True)
    both = [str(mpich_file("mpiexec")), "-n", "1", "-wdir", str(folders[0]), *argv]
    both += [":", "-n", "1", "-wdir", str(folders[1]), *argv]
    found = _only_error(*run_program(both, env, tmp_path, SECONDS))
    assert "model file model.pt2 does not exist" in found


PROGRAM = """
import resource, sys
from dpsim.lammps import start
from dpsim.lammps.session import preload_mpi
preload_mpi()
from mpi4py import MPI
comm = MPI.COMM_WORLD
lmp = start(comm=comm, cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(open("in.part").read())
failing = comm.Get_rank() == 1
{failure}
lmp.command("run 3")
print("went on")
"""
FAILURES = {
    "an error of the program": ("if failing: raise ValueError('rank 1 has had enough')", "rank 1 has had enough"),
    "an error in LAMMPS": (
        "if failing: lmp.numpy.extract_atom('x')[0, 0] = float('nan')",
        r"Non-numeric atom coords",
    ),
    "no memory": (
        "lmp.command('replicate 9 9 9')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "if failing: resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)",
        r"pair_style dpsim: model file .* needs more memory than there is for the \d+ atoms and \d+ edges of one rank",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_rank_of_a_python_program(name: str, model64: Path, tmp_path: Path) -> None:
    """Where no LAMMPS executable ends the other ranks."""
    failure, sentence = FAILURES[name]
    (tmp_path / "in.part").write_text(_deck(tmp_path, model64) + "fix n all nve\n")
    (tmp_path / "program.py").write_text(PROGRAM.format(failure=failure))
    argv = [str(mpich_file("mpiexec")), "-n", "2", sys.executable, "program.py"]
    code, text = run_program(argv, program_environment(None, 1), tmp_path, SECONDS)
    assert code != 0
    assert re.search(sentence, text), text[-3000:]
    assert "went on" not in text
