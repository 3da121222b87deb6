"""Relaxation of structures with a model or any calculator of ASE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.relax_config import RelaxSettings
from dpsim.calculators.statics.source import Evaluated, as_source, evaluate, name_of, stress_of
from dpsim.errors import DataError, DpsimError, StageError
from dpsim.units import GPA_PER_EV_A3

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
BAR_PER_EV_A3 = GPA_PER_EV_A3 * 1e4
_LARGEST_CHANGE = 4.0
"""Factor by which a volume may change before the cell counts as unstable."""


@dataclass(frozen=True)
class State:
    """What is recorded of a structure.

    Attributes
    ----------
    energy
        eV.
    fmax
        Longest force, eV/Å; of atoms that are held, none.
    stress
        (3, 3) eV/Å³, tensile positive; None without a periodic cell.
    volume
        Å³; None without a periodic cell.
    """

    energy: float
    fmax: float
    stress: Array | None
    volume: float | None


@dataclass(frozen=True)
class Relaxed:
    """A structure after its relaxation.

    Attributes
    ----------
    atoms
        The last structure, without a calculator.
    before, after
        Its state at the beginning and at the end; None if it could not be computed.
    converged
        Whether `RelaxSettings.fmax` and, for a cell that moves, ``stress_max`` were reached.
    steps
        Steps taken.
    reason
        Why it did not converge.
    broken
        Whether a calculation failed on the way, so that another attempt may come further.
    """

    atoms: Atoms
    before: State | None
    after: State | None
    converged: bool
    steps: int
    reason: str = ""
    broken: bool = False


def relax(
    atoms: Atoms,
    source: Any,
    settings: RelaxSettings | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> Relaxed:
    """Relax one structure with ASE.

    Parameters
    ----------
    atoms
        The structure; it stays as it is. Constraints hold.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `RelaxSettings`.
    on_step
        Called with the number of steps and the longest force; it may raise, which stops the relaxation.

    Returns
    -------
    Relaxed
        Also where it did not converge: see `Relaxed.reason`.

    Raises
    ------
    DataError
        If the cell is to move and is not periodic in three directions.
    DpsimError
        If the calculator refuses the structure.
    """
    settings = settings or RelaxSettings()
    check_cell_moves(atoms, settings)
    moving = _started(atoms, settings)
    moving.calc = as_source(source)(moving)
    before = state = state_of(moving, evaluate(moving, moving.calc))
    if settings.cell != "fixed" and before.stress is None:
        raise StageError(f"{name_of(atoms)}: no stress is given, which a cell that moves needs: use cell: fixed")
    steps, reason, broken, done = 0, "", False, moving.copy()
    try:
        for steps, _ in enumerate(_optimizer(moving, settings).irun(fmax=0.0, steps=settings.max_steps)):
            state, done = _measured(moving), moving.copy()
            if on_step is not None:
                on_step(steps, state.fmax)
            if is_relaxed(state, settings):
                break
            if problem := unstable(before, state):
                reason = problem
                break
        else:
            reason = f"not converged in {settings.max_steps} steps"
    except (StageError, DataError) as error:
        reason, broken = str(error), True
    except DpsimError:
        raise
    except Exception as error:  # calculators raise whatever they meet
        reason, broken = f"{type(error).__name__}: {error}", True
    done.set_constraint(atoms.constraints)
    return Relaxed(done, before, state, not reason and is_relaxed(state, settings), steps, reason, broken)


def relaxed_or_error(atoms: Atoms, source: Any, settings: RelaxSettings) -> Relaxed:
    """As `relax`, with an error where it does not converge.

    Raises
    ------
    StageError
        If it does not converge.
    """
    found = relax(atoms, source, settings)
    if not found.converged:
        raise StageError(
            f"{name_of(atoms)} cannot be relaxed: {found.reason}; raise max_steps, or start from a better structure"
        )
    return found


def check_cell_moves(atoms: Atoms, settings: RelaxSettings) -> None:
    """Refuse a cell that is to move and cannot.

    Raises
    ------
    DataError
        If it is not periodic in three directions.
    """
    if settings.cell != "fixed" and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise DataError(
            f"{name_of(atoms)}: cell: {settings.cell} needs a cell that is periodic in three directions, "
            f"found pbc {[bool(flag) for flag in atoms.pbc]}: use cell: fixed"
        )


def is_relaxed(state: State, settings: RelaxSettings) -> bool:
    """Whether forces, and the stress of a cell that moves, are small enough."""
    if state.fmax > settings.fmax:
        return False
    return settings.cell == "fixed" or excess_stress(state, settings) <= settings.stress_max


def excess_stress(state: State, settings: RelaxSettings) -> float:
    """Largest component (bar) of the stress that the cell may still give way to."""
    assert state.stress is not None
    excess = state.stress * BAR_PER_EV_A3 + settings.pressure * np.eye(3)
    mean = np.trace(excess) / 3
    if settings.cell == "volume":
        return float(abs(mean))
    if settings.cell == "shape":
        excess = excess - mean * np.eye(3)
    return float(np.abs(excess).max())


def state_of(atoms: Atoms, found: Evaluated) -> State:
    """State of a structure from what was computed of it, forces on held atoms taken out."""
    forces = found.forces.copy()
    for constraint in atoms.constraints:
        if hasattr(constraint, "adjust_forces"):
            constraint.adjust_forces(atoms, forces)
    longest = float(np.linalg.norm(forces, axis=1).max()) if len(forces) else 0.0
    volume = float(atoms.get_volume()) if atoms.cell.rank == 3 and atoms.pbc.all() else None
    return State(found.energy, longest, found.stress, volume)


def _measured(atoms: Atoms) -> State:
    """State from what the optimizer has just computed."""
    energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
    full = atoms.cell.rank == 3 and bool(atoms.pbc.all())
    stress = stress_of(atoms)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise StageError("energy or forces are not finite numbers: the structure has become unphysical")
    longest = float(np.linalg.norm(forces, axis=1).max())
    return State(energy, longest, stress, float(atoms.get_volume()) if full else None)


def _started(atoms: Atoms, settings: RelaxSettings) -> Atoms:
    moving = atoms.copy()
    if settings.keep_symmetry:
        from ase.constraints import FixSymmetry

        moving.set_constraint([*moving.constraints, FixSymmetry(moving)])
    return moving


def _optimizer(atoms: Atoms, settings: RelaxSettings) -> Any:
    from ase import optimize
    from ase.filters import FrechetCellFilter

    target: Any = atoms
    if settings.cell != "fixed":
        target = FrechetCellFilter(
            atoms,
            hydrostatic_strain=settings.cell == "volume",
            constant_volume=settings.cell == "shape",
            scalar_pressure=settings.pressure / BAR_PER_EV_A3,
        )
    return getattr(optimize, settings.optimizer or "FIRE")(target, logfile=None)


def unstable(before: State, now: State) -> str:
    """Say that a cell has collapsed or flown apart; empty if it has not."""
    if before.volume is None or now.volume is None:
        return ""
    ratio = now.volume / before.volume
    if 1 / _LARGEST_CHANGE < ratio < _LARGEST_CHANGE:
        return ""
    what = "collapses" if ratio < 1 else "flies apart"
    return f"the cell {what} (from {before.volume:.4g} to {now.volume:.4g} Å³): it is unstable with this model"
