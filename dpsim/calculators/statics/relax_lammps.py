"""Relaxation with LAMMPS: ``minimize``, with ``fix box/relax`` for a cell that moves, on any number of ranks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsim.calculators.lammps_data import elements_of, lammps_box, write_data
from dpsim.calculators.md.deck import DATA_FILE, FINISHED, dpsim_pair_lines
from dpsim.calculators.md.output import LogFollower, read_dump, read_error
from dpsim.calculators.md.process import LammpsProcess
from dpsim.calculators.statics.relax import Relaxed, is_relaxed, state_of, unstable
from dpsim.calculators.statics.relax_config import RelaxSettings
from dpsim.calculators.statics.source import evaluate, name_of
from dpsim.data.files import write_text
from dpsim.errors import DataError, StageError
from dpsim.export.metadata import read_metadata

if TYPE_CHECKING:
    from ase import Atoms

_ROUNDS = 6
"""Minimisations of a cell that moves: the strain that LAMMPS minimises over refers to the cell at the start of each."""
_EVERY = 10
_POLL = 0.2


def relax_lammps(
    atoms: Atoms,
    source: Any,
    settings: RelaxSettings,
    model: Path,
    folder: Path,
    *,
    ranks: int = 1,
    on_step: Callable[[int, float], None] | None = None,
) -> Relaxed:
    """Relax one structure with LAMMPS; energies, forces and stress before and after are those of `source`.

    Parameters
    ----------
    atoms
        The structure, without constraints.
    source
        Gives the calculator of the same model.
    settings
        Without ``keep_symmetry``, and not ``cell: shape``.
    model
        The frozen model.
    folder
        Emptied, and used for the files of LAMMPS.
    ranks
        MPI ranks.
    on_step
        Called with the number of steps and the longest force.

    Raises
    ------
    DataError
        If atoms are held, or the model takes spins.
    StageError
        If LAMMPS fails.
    """
    if atoms.constraints:
        raise DataError(f"{name_of(atoms)}: atoms are held, which engine: lammps does not know: use engine: ase")
    metadata = read_metadata(model)
    if metadata.spin is not None:
        raise DataError(f"{model} takes spins, which engine: lammps does not relax: use engine: ase")
    calculator = source(atoms)
    before = state_of(atoms, evaluate(atoms, calculator))
    elements = elements_of(atoms, metadata.type_map, name_of(atoms))
    lines = dpsim_pair_lines("model.pt2", elements)
    done, steps = minimized(
        atoms, lines, elements, settings, folder, files={"model.pt2": model}, ranks=ranks, on_step=on_step
    )
    after = state_of(done, evaluate(done, calculator))
    relaxed = is_relaxed(after, settings)
    reason = "" if relaxed else f"LAMMPS stopped after {steps} steps (at most {settings.max_steps}) before it converged"
    return Relaxed(done, before, after, relaxed, steps, unstable(before, after) or reason)


def minimized(
    atoms: Atoms,
    pair_lines: Sequence[str],
    elements: tuple[str, ...],
    settings: RelaxSettings,
    folder: Path,
    *,
    files: Mapping[str, Path] | None = None,
    ranks: int = 1,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Atoms, int]:
    """Minimise a structure with any pair style of LAMMPS; return it as it is then, and the steps it took.

    Parameters
    ----------
    atoms, settings, folder, ranks, on_step
        As in `relax_lammps`.
    pair_lines
        The ``pair_style`` and ``pair_coeff`` lines, for LAMMPS types in the order of `elements`.
    elements
        Element of LAMMPS type 1, 2, …
    files
        Files that the pair lines name, linked into the folder under their key.

    Raises
    ------
    StageError
        If LAMMPS fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    box = lammps_box(atoms)
    for name, path in (files or {}).items():
        (folder / name).symlink_to(path.resolve())
    write_data(folder / DATA_FILE, atoms, elements, box, tilt=settings.cell == "full", velocities=False)
    write_text(folder / "in.lammps", _deck(settings, pair_lines, elements, box.boundary))
    steps = _run(folder, ranks, atoms, on_step)
    last = list(read_dump(folder / "relaxed.lammpstrj"))[-1]
    done = atoms.copy()
    done.set_cell(box.cell_back(last.vectors))
    done.positions = box.positions_back(last.positions, last.origin)
    return done, steps


def _deck(settings: RelaxSettings, pair_lines: Sequence[str], elements: tuple[str, ...], boundary: str) -> str:
    moves = settings.cell != "fixed"
    coupling = {"volume": "iso", "full": "tri"}.get(settings.cell, "")
    lines = [
        "echo none", "units metal", "atom_style atomic", f"boundary {boundary}", "box tilt large", "newton on",
        f"read_data {DATA_FILE}", *pair_lines, "neighbor 1 bin",
        "neigh_modify every 1 delay 0 check yes", "thermo_style custom step fnorm fmax pe press vol",
        "thermo_modify flush yes lost error norm no", f"thermo {_EVERY}",
        f"min_style {(settings.optimizer or 'CG').lower()}", "min_modify norm max dmax 0.1",
    ]  # fmt: skip
    for _ in range(_ROUNDS if moves else 1):
        if moves:
            lines.append(f"fix cell all box/relax {coupling} {settings.pressure!r} vmax 0.01")
        # LAMMPS counts its own steps: those of all rounds together are no more than allowed.
        lines.append(f'variable left equal "{settings.max_steps}-step"')
        lines.append('if "${left} < 1" then "jump SELF done"')
        lines.append(f"minimize 0 {0.5 * settings.fmax!r} ${{left}} {20 * settings.max_steps}")
        lines += ["unfix cell"] if moves else []
    dump = "write_dump all custom relaxed.lammpstrj id element xu yu zu modify"
    lines += ["label done", f"{dump} element {' '.join(elements)} sort id format float %.17g", f'print "{FINISHED}"']
    return "\n".join(lines) + "\n"


def _run(folder: Path, ranks: int, atoms: Atoms, on_step: Callable[[int, float], None] | None) -> int:
    """Run the deck; return the steps it took."""
    from dpsim.lammps.launcher import lammps_command

    argv, env = lammps_command(ranks, (folder / "in.lammps").absolute())
    log, screen = folder / "log.lammps", folder / "screen.txt"
    follower = LogFollower(log)
    with LammpsProcess([*argv, "-log", log.name, "-nocite"], env, folder, screen) as process:
        while not process.wait(_POLL):
            process.check_signal("relax was stopped by a signal")
            if on_step is not None and (row := _last_row(log)):
                on_step(*row)
    follower.poll()
    if not follower.finished or process.exit_code != 0:
        error = follower.error or read_error(screen) or f"it ended with code {process.exit_code}, without a message"
        raise StageError(f"LAMMPS could not relax {name_of(atoms)}: {error}")
    row = _last_row(log)
    return row[0] if row else 0


def _last_row(log: Path) -> tuple[int, float] | None:
    """Step and longest force component of the newest line of thermo output."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        words = line.split()
        if len(words) == 6 and words[0].isdigit():
            try:
                return int(words[0]), float(words[2])
            except ValueError:
                continue
    return None
