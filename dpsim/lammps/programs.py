"""What a LAMMPS executable and an MPI launcher say of themselves, and whether they belong together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import SetupError
from dpsim.lammps.packages import program_environment

TIMEOUT = 120.0
"""Seconds that a program may take to say what it is."""

_FAMILIES = {"Open MPI": r"open.?mpi|open.?rte|prte", "MPICH": r"mpich|hydra|intel.*mpi|mvapich"}


class Program(NamedTuple):
    """A LAMMPS executable, by its own words."""

    path: Path
    version: str
    """As in version.h, for example ``22 Jul 2025``."""
    mpi: str
    """Its MPI library, for example ``Open MPI v4.1.4``."""
    sizes: str
    """Definition of its integer sizes, ``LAMMPS_SMALLBIG`` for example."""
    packages: frozenset[str]

    @property
    def family(self) -> str:
        """Kind of MPI: ``Open MPI``, ``MPICH``, or what it says."""
        return family(self.mpi)


class Launcher(NamedTuple):
    """An ``mpirun`` or ``mpiexec``."""

    path: Path
    family: str


def family(text: str) -> str:
    """Which MPI a text is about: ``Open MPI``, ``MPICH`` (and its relatives), or its first line."""
    for name, pattern in _FAMILIES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return (text.strip().splitlines() or ["unknown"])[0]


def inspect(path: Path, env: Mapping[str, str] | None = None) -> Program:
    """Ask a LAMMPS executable what it is.

    Raises
    ------
    SetupError
        If it does not start, or is no LAMMPS.
    """
    found = shutil.which(str(path))
    if found is None:
        raise SetupError(f"{path} is no program; give the path of the LAMMPS executable")
    try:
        done = subprocess.run(
            [found, "-h"], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{path} does not run ({error}); give the path of the LAMMPS executable") from None
    version = re.search(r"Massively Parallel Simulator - (\d+ \w+ \d{4})", done.stdout)
    if done.returncode != 0 or version is None:
        trouble = ((done.stderr or done.stdout).strip().splitlines() or ["no output"])[-1]
        raise SetupError(f"{path} does not start as LAMMPS ({trouble}); give the path of the LAMMPS executable")
    mpi = re.search(r"^MPI v\S+ *(.+)$", done.stdout, re.MULTILINE)
    packages = re.search(r"^Installed packages:\s*\n\n?(.*?)\n\n", done.stdout, re.MULTILINE | re.DOTALL)
    return Program(
        path=Path(found),
        version=version.group(1),
        mpi=" ".join(mpi.group(1).split(",")[0].replace("Version:", "").split()) if mpi else "no MPI",
        sizes=_sizes(done.stdout),
        packages=frozenset(packages.group(1).split() if packages else ()),
    )


def _sizes(text: str) -> str:
    bits = {name: int(n) for name, n in re.findall(r"sizeof\((\w+)\): +(\d+)-bit", text)}
    if bits.get("tagint", 32) == 64:
        return "LAMMPS_BIGBIG"
    return "LAMMPS_SMALLBIG" if bits.get("bigint", 64) == 64 else "LAMMPS_SMALLSMALL"


def find_launcher(program: Program, asked: Path | None = None) -> Launcher:
    """The ``mpirun`` that starts a LAMMPS executable: the one asked for, or the first on the PATH.

    Raises
    ------
    SetupError
        If there is none, or it is of another MPI than the executable: it would start every rank as a run of its own.
    """
    if asked is not None:
        candidates = [launcher] if (launcher := _launcher(asked)) else []
    else:
        candidates = list(_launchers())
    if not candidates:
        where = "on the PATH" if asked is None else f"at {asked}"
        raise SetupError(f"there is no mpirun {where}; install the one of {program.mpi}")
    first = candidates[0]
    if first.family == program.family:
        return first
    fitting = next((one.path for one in _launchers() if one.family == program.family), None)
    advice = f"{fitting} -n RANKS {program.path} -in INPUT" if fitting else f"install the mpirun of {program.family}"
    raise SetupError(
        f"{first.path} is of {first.family} but {program.path} runs on {program.family}, so that every rank would be a "
        f"run of its own; {advice}"
    )


def _launchers() -> Iterator[Launcher]:
    """All on the PATH, in its order."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in ("mpirun", "mpiexec"):
            launcher = _launcher(Path(folder) / name)
            if launcher is not None:
                yield launcher


def _launcher(path: Path) -> Launcher | None:
    found = shutil.which(str(path))
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Launcher(Path(found), family(done.stdout + done.stderr))


def libraries(path: Path) -> list[str]:
    """Shared libraries that a program or library is linked with, as the loader names them; empty if it cannot tell."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return []
    done = subprocess.run([ldd, str(path)], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return re.findall(r"^\s*(\S+)(?: =>| \()", done.stdout, re.MULTILINE)


def mpi_library(path: Path) -> str:
    """Name of the MPI library that a program or library is linked with, ``libmpi.so.40`` for example, or empty."""
    return next((name for name in libraries(path) if re.match(r"libmpi(ch)?\.so", name)), "")


def run_environment(plugin: Path | None, *, own: bool) -> dict[str, str]:
    """Environment of a LAMMPS run by hand: that of the package, or (`own`) the user's with the plugin's folder."""
    if not own:
        return program_environment(plugin, 1)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if plugin is not None:
        env["LAMMPS_PLUGIN_PATH"] = str(plugin)
    if os.geteuid() == 0:  # otherwise Open MPI refuses; in a container everybody is root
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    return env


def number(version: str) -> int:
    """A version as LAMMPS compares it, ``20250722`` for ``22 Jul 2025``; 0 for what is no date."""
    found = re.match(r"\d+ \w{3} \d{4}", version)
    return int(datetime.strptime(found.group(0), "%d %b %Y").strftime("%Y%m%d")) if found else 0
