"""Checks of the chain that LAMMPS with the plugin hangs on: Python, torch, compiler, LAMMPS, MPI, plugin, a step."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import DpsimError, SetupError
from dpsim.lammps.launcher import lammps_command
from dpsim.lammps.packages import lammps_program, mpich_file, program_environment
from dpsim.lammps.plugin import quiet
from dpsim.native.build import build_dir_if_ready, cache_dir
from dpsim.native.identity import base_key, find_compiler, torch_build

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


def diagnose(*, model: Path | None = None, step: bool = True) -> list[Check]:
    """Check every link, in the order in which they depend on each other; never raises.

    Parameters
    ----------
    model
        Frozen model for the trial step; by default a tiny one, made once (under a minute) and kept.
    step
        Whether to take a two-atom step in the very ``lmp`` that dpsim uses, on two ranks where there are two cores.
    """
    checks = [_guarded(name, check) for name, check in _CHECKS]
    if step:
        checks.append(_guarded("two-atom step", lambda: _step(model)))
    return checks


def _guarded(name: str, check: Callable[[], tuple[bool, str, str]]) -> Check:
    """Turn what a check raises into its result."""
    try:
        return Check(name, *check())
    except DpsimError as error:
        found, _, fix = str(error).partition(";")
        return Check(name, False, found, fix.strip())
    except Exception as error:  # a doctor must not die of what it finds
        return Check(name, False, f"{type(error).__name__}: {error}", "")


def _python() -> tuple[bool, str, str]:
    ok = sys.version_info >= (3, 11)
    return ok, f"{platform.python_version()} ({sys.executable})", "" if ok else "use Python 3.11 or later"


def _torch() -> tuple[bool, str, str]:
    found = torch_build()
    ok = found.startswith("2.13.")
    return ok, found, "" if ok else "pip install 'torch>=2.13,<2.14'"


def _compiler() -> tuple[bool, str, str]:
    compiler = find_compiler()
    return True, f"{compiler.version} ({shutil.which(compiler.command[0])})", ""


def _cmake() -> tuple[bool, str, str]:
    missing = [n for n in ("cmake", "ninja") if importlib.util.find_spec(n) is None and shutil.which(n) is None]
    if missing:
        return False, f"{' and '.join(missing)} missing", f"pip install {' '.join(missing)}"
    return True, "cmake and ninja", ""


def _lammps() -> tuple[bool, str, str]:
    program, version = lammps_program(), metadata.version("lammps")
    ok = version.startswith(LAMMPS_SERIES)
    return ok, f"{version} ({program})", "" if ok else f"pip install 'lammps[mpi]=={LAMMPS_SERIES}.*'"


def _starts() -> tuple[bool, str, str]:
    done = subprocess.run(
        [str(lammps_program()), "-h"],
        env=program_environment(None, 1), capture_output=True, text=True, timeout=_TIMEOUT, check=False,
    )  # fmt: skip
    version = re.search(r"Simulator - (.+)", done.stdout)
    mpi = re.search(r"MPI v\S+ *(.+)", done.stdout)
    if done.returncode != 0 or version is None:
        trouble = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        return False, trouble[-1], "pip install --force-reinstall 'lammps[mpi]' mpich"
    return True, f"{version.group(1)}; {mpi.group(1).strip() if mpi else 'no MPI'}", ""


def _mpich() -> tuple[bool, str, str]:
    mpiexec = mpich_file("mpiexec")
    mpich_file("libmpi.so.12")
    return True, f"{metadata.version('mpich')} ({mpiexec})", ""


def _mpi_on_path() -> tuple[bool, str, str]:
    """Another mpiexec is no obstacle to dpsim, but to those who type ``mpiexec lmp``."""
    ours, found = mpich_file("mpiexec"), shutil.which("mpiexec")
    if found is None:
        return True, "no mpiexec on the PATH", f"by hand, start LAMMPS with {ours}"
    if Path(found).resolve() == ours.resolve():
        return True, str(ours), ""
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    kind = (
        "Open MPI" if re.search(r"open.?mpi|openrte|prte", done.stdout + done.stderr, re.IGNORECASE) else "another MPI"
    )
    remark = f"dpsim does not use it; by hand, start LAMMPS with {ours}, or every rank runs alone"
    return True, f"{found} is {kind}", remark


def _mpi4py() -> tuple[bool, str, str]:
    code = (
        "from dpsim.lammps.session import preload_mpi; preload_mpi(); "
        "from mpi4py import MPI; print(MPI.Get_library_version())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=program_environment(None, 1), capture_output=True, text=True, timeout=_TIMEOUT, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["does not start: " + (done.stderr.strip().splitlines() or ["?"])[-1]]
    found = lines[0].strip("\0 ")
    ok = done.returncode == 0 and "MPICH" in found
    return ok, found, "" if ok else "pip install --force-reinstall mpi4py mpich"


def _plugin() -> tuple[bool, str, str]:
    folder = build_dir_if_ready("plugin")
    if folder is None:
        return True, "not built yet", "it is built at first use, or now by: dpsim lammps build"
    return True, str(folder), ""


_CHECKS: list[tuple[str, Callable[[], tuple[bool, str, str]]]] = [
    ("Python", _python),
    ("torch", _torch),
    ("C++ compiler", _compiler),
    ("cmake", _cmake),
    ("LAMMPS", _lammps),
    ("MPICH", _mpich),
    ("mpiexec on the PATH", _mpi_on_path),
    ("LAMMPS starts", _starts),
    ("mpi4py", _mpi4py),
    ("plugin", _plugin),
]

_DECK = """units metal
region box block 0 20 0 20 0 20
create_box 1 box
mass 1 1.0
create_atoms 1 single 9.5 10 10
create_atoms 1 single 10.5 10 10
pair_style dpsim {model}
pair_coeff * * {element}
thermo_style custom step pe
run 1
variable energy equal pe
print "dpsim energy $(v_energy:%.15g)"
"""


def _step(model: Path | None) -> tuple[bool, str, str]:
    """Two atoms, one step, in the same program and by the same launcher as every run."""
    from dpsim.export.metadata import read_metadata

    model = (model or tiny_model()).resolve()
    ranks = 2 if (os.cpu_count() or 1) > 1 else 1
    with tempfile.TemporaryDirectory(prefix="dpsim-doctor-") as name:
        deck = Path(name) / "in.lammps"
        deck.write_text(_DECK.format(model=model, element=read_metadata(model).type_map[0]))
        with quiet():
            argv, env = lammps_command(ranks, deck, log="none", plugin=True)
        try:
            done = subprocess.run(
                argv, env=env, cwd=name, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return False, f"no end after {_TIMEOUT:.0f} s on {ranks} ranks", f"try by hand: {' '.join(argv)}"
    energy = re.search(r"^dpsim energy (\S+)", done.stdout, re.MULTILINE)
    if done.returncode == 0 and energy and math.isfinite(float(energy.group(1))):
        return True, f"on {ranks} {'rank' if ranks == 1 else 'ranks'}, energy {float(energy.group(1)):.6f} eV", ""
    text = (done.stdout + done.stderr).splitlines()
    trouble = [line for line in text if "ERROR" in line] or text[-1:] or ["no output"]
    return False, trouble[0].strip(), "dpsim lammps build --force"


def tiny_model() -> Path:
    """A small frozen model for trials, made once for each torch and each version of the sources.

    Raises
    ------
    SetupError
        If there is no compiler to freeze it with.
    """
    path = cache_dir() / f"trial-{base_key('plugin')}.pt2"
    if path.is_file():
        return path
    from dpsim.export.compile import compile_model
    from dpsim.model.config import ModelConfig

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        compile_model(ModelConfig.tiny().build(seed=1), path)
    except OSError as error:
        raise SetupError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}); make it writable"
        ) from None
    return path
