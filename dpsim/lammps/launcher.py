"""The command that runs LAMMPS with the plugin, on any number of ranks, whatever the user's PATH holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpsim.errors import SetupError
from dpsim.lammps.packages import lammps_program, mpich_file, program_environment
from dpsim.native.build import Progress, build_dir_if_ready, ensure

_PAIR_STYLE = re.compile(r"^\s*pair_style\b.*\bdpsim\b", re.MULTILINE)


def lammps_command(
    ranks: int,
    input: str | Path,
    *,
    variables: Mapping[str, str | int | float] | None = None,
    log: str | Path | None = None,
    threads: int = 1,
    plugin: bool | None = None,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Argument list and environment that run a LAMMPS input file.

    MPI programs come from the Python package ``mpich``, LAMMPS from the package ``lammps``: the pair that was made
    for each other. Another ``mpiexec`` on the PATH would start every rank as a run of its own.

    Parameters
    ----------
    ranks
        MPI ranks; 1 runs without ``mpiexec``.
    input
        LAMMPS input file.
    variables
        ``-var NAME VALUE``.
    log
        Log file instead of ``log.lammps``; ``"none"`` writes none.
    threads
        OpenMP threads of each rank.
    plugin
        Whether ``pair_style dpsim`` is needed: the plugin is built if it is not yet. None: look whether the input
        file uses it.
    extra
        More command line options of LAMMPS.
    progress
        Receives lines about a build.

    Raises
    ------
    SetupError
        If a package is missing, the plugin cannot be built, or `ranks` or `threads` is below one.
    """
    if ranks < 1 or threads < 1:
        raise SetupError(f"LAMMPS was asked to run on {ranks} ranks with {threads} threads each; both are 1 or more")
    argv = [str(lammps_program()), "-in", str(input)]
    for name, value in (variables or {}).items():
        argv += ["-var", name, str(value)]
    if log is not None:
        argv += ["-log", str(log)]
    argv += extra
    if ranks > 1:
        argv = [str(mpich_file("mpiexec")), "-n", str(ranks), *argv]
    return argv, program_environment(_plugin_folder(plugin, Path(input), progress), threads)


def _plugin_folder(wanted: bool | None, input_file: Path, progress: Progress | None) -> Path | None:
    if wanted is None:
        wanted = input_file.is_file() and _PAIR_STYLE.search(input_file.read_text(errors="replace")) is not None
    return ensure("plugin", progress=progress) if wanted else build_dir_if_ready("plugin")
