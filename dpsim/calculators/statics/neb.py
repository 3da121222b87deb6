"""Barriers between two states, by the nudged elastic band of ASE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.defects import without
from dpsim.calculators.statics.phonons import repetitions
from dpsim.calculators.statics.properties_config import NebConfig
from dpsim.calculators.statics.relax import relaxed_or_error
from dpsim.calculators.statics.relax_config import RelaxSettings
from dpsim.calculators.statics.source import as_source, name_of
from dpsim.errors import DataError, DpsimError, StageError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
OnStep = Callable[[int, float], None]


class Neb(NamedTuple):
    """A path between two states.

    Attributes
    ----------
    barrier, reverse
        Energy of the saddle point above the first and above the last state, eV.
    reaction
        Energy of the last state above the first, eV.
    distances, energies
        (images,) Å along the path, and eV above the first state.
    curve
        (2, n) the same between images, from energies and forces.
    fmax
        Longest force on an image, eV/Å.
    steps
        Steps of the band.
    images
        Structures along the path.
    """

    barrier: float
    reverse: float
    reaction: float
    distances: Array
    energies: Array
    curve: Array
    fmax: float
    steps: int
    images: list[Atoms]


def barrier(
    initial: Atoms,
    final: Atoms,
    source: Any,
    settings: NebConfig | None = None,
    *,
    on_step: OnStep | None = None,
) -> Neb:
    """Find the path of least energy between two states.

    Parameters
    ----------
    initial, final
        The two states, with the atoms in the same order and the same cell.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    settings
        See `NebConfig`; its structures are not looked at.
    on_step
        Called with the number of steps and the longest force.

    Raises
    ------
    DataError
        If the two states do not fit together.
    StageError
        If ends or band do not converge.
    """
    settings = settings or NebConfig(vacancy_hop=True)
    check_ends(initial, final)
    make = as_source(source)
    if settings.relax_ends:
        still = RelaxSettings(fmax=settings.fmax / 5, max_steps=settings.max_steps)
        initial, final = (relaxed_or_error(one, make, still).atoms for one in (initial, final))
        if _apart(initial, final) < 1e-2:
            raise StageError(
                f"neb: initial and final ({name_of(initial)}) relax to the same state: there is no barrier between them"
            )
    images = [initial, *(initial.copy() for _ in range(settings.images)), final.copy()]
    images[-1].set_constraint(initial.constraints)
    for image in images:
        image.calc = make(image)
    return _relaxed_band(images, settings, on_step)


def _relaxed_band(images: list[Atoms], settings: NebConfig, on_step: OnStep | None) -> Neb:
    from ase.mep import NEB

    band = NEB(images, k=settings.spring, climb=False, method="improvedtangent")
    # A band that climbs from the start may be pulled off its path: it climbs when it has found it.
    goals = [(False, 4 * settings.fmax), (True, settings.fmax)] if settings.climb else [(False, settings.fmax)]
    converged, steps = False, 0
    try:
        band.interpolate("idpp", mic=True)
        for band.climb, fmax in goals:
            converged, steps = _moved(band, fmax, steps, settings.max_steps, on_step)
        longest = _longest(band)
    except DpsimError:
        raise
    except Exception as error:  # calculators raise whatever they meet
        raise StageError(f"neb: {name_of(images[0])} cannot be computed: {type(error).__name__}: {error}") from error
    if not converged:
        raise StageError(
            f"neb: the band of {name_of(images[0])} has a force of {longest:.3g} eV/Å after {steps} steps, expected "
            f"{settings.fmax:g}: raise max_steps or fmax, or give ends that are nearer"
        )
    return _found(images, longest, steps)


def _moved(band: Any, fmax: float, steps: int, max_steps: int, on_step: OnStep | None) -> tuple[bool, int]:
    """Move a band until its longest force is `fmax`; return whether it is, and the steps of all together."""
    from ase.optimize import FIRE

    optimizer, converged = FIRE(band, logfile=None), False
    for one in optimizer.irun(fmax=fmax, steps=max_steps - steps):
        converged = bool(one)
        if on_step is not None:
            on_step(steps + optimizer.nsteps, _longest(band))
    return converged, steps + optimizer.nsteps


def _longest(band: Any) -> float:
    return float(np.linalg.norm(band.get_forces(), axis=1).max())


def _found(images: list[Atoms], longest: float, steps: int) -> Neb:
    from ase.utils.forcecurve import fit_images

    fit = fit_images(images)
    high, reaction = float(np.max(fit.fit_energies)), float(fit.energies[-1] - fit.energies[0])
    copies = []
    for image in images:
        copy = image.copy()
        copy.info = {"name": name_of(images[0]), "dpsim_energy": float(image.get_potential_energy())}
        copies.append(copy)
    return Neb(
        high, high - reaction, reaction, np.array(fit.path), np.array(fit.energies),
        np.array([fit.fit_path, fit.fit_energies]), longest, steps, copies,
    )  # fmt: skip


def check_ends(initial: Atoms, final: Atoms) -> None:
    """Refuse two states that no path connects.

    Raises
    ------
    DataError
        If they differ in atoms, cell or boundaries, or do not differ at all.
    """
    ours, theirs = initial.get_chemical_symbols(), final.get_chemical_symbols()
    if len(ours) != len(theirs):
        raise DataError(
            f"neb: initial has {len(ours)} atoms and final {len(theirs)}, expected the same atoms in the same order"
        )
    if ours != theirs:
        first = next(k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        raise DataError(
            f"neb: atom {first} is {ours[first]} in initial and {theirs[first]} in final, expected the same atoms in "
            "the same order"
        )
    if not np.array_equal(initial.pbc, final.pbc) or not np.allclose(initial.cell.array, final.cell.array, atol=1e-3):
        raise DataError("neb: initial and final differ in cell or boundaries, expected the same: relax at fixed cell")
    if _apart(initial, final) < 1e-2:
        raise DataError("neb: initial and final are the same structure, expected two states")


def _apart(initial: Atoms, final: Atoms) -> float:
    from ase.geometry import find_mic

    vectors, _ = find_mic(final.positions - initial.positions, initial.cell, initial.pbc)
    return float(np.linalg.norm(vectors, axis=1).max())


def vacancy_hop(atoms: Atoms, min_length: float) -> tuple[Atoms, Atoms]:
    """Two states of a crystal between which an atom jumps into a vacancy beside it, of the same element.

    Parameters
    ----------
    atoms
        The crystal.
    min_length
        Å; least height of the supercell.

    Raises
    ------
    DataError
        If there is only one atom of the element.
    """
    from ase.geometry import find_mic

    cell = atoms.repeat(repetitions(atoms, min_length))
    cell.info = dict(atoms.info)
    vectors, lengths = find_mic(cell.positions - cell.positions[0], cell.cell, cell.pbc)
    lengths[0], lengths[cell.numbers != cell.numbers[0]] = np.inf, np.inf
    nearest = int(lengths.argmin())
    if not np.isfinite(lengths[nearest]):
        raise DataError(f"neb: {name_of(atoms)} has one atom of {cell[0].symbol}, which has nowhere to jump from")
    initial, moved = without(cell, 0), cell.copy()
    moved.positions[nearest] -= vectors[nearest]
    final = without(moved, 0)
    initial.info["name"] = final.info["name"] = f"{name_of(atoms)}, hop of a vacancy"
    return initial, final
