"""Checks of models that take spins."""

from __future__ import annotations

import numpy as np

from dpsim.testing.smoothness import STENCIL, WEIGHTS
from dpsim.testing.structures import Structure
from dpsim.testing.subject import ContractError, Subject, only_for_spins


@only_for_spins
def check_magnetic_forces(subject: Subject) -> None:
    """Forces on spins are minus the gradient of the energy; types without spin have none, whatever spin is given."""
    step = 1e-3
    for name, structure in (("molecule", subject.molecule(4)), ("small cell", subject.crystal(2, seed=1))):
        structure = _disordered(structure, seed=4)
        assert structure.spin is not None
        turns = np.eye(structure.spin.size).reshape(-1, *structure.spin.shape)
        moved = [structure._replace(spin=structure.spin + s * step * turn) for turn in turns for s in STENCIL]
        slopes = subject.totals(moved).reshape(-1, 4) @ WEIGHTS / step
        found = np.asarray(subject.evaluate(structure).magnetic_forces)
        what = f"forces on the spins of the {name} and finite differences"
        subject.agree(what, found, -slopes.reshape(-1, 3), subject.tolerances.derivative)
        idle = np.asarray(subject.model.spin)[structure.types] == 0
        subject.agree(f"forces on absent spins of the {name}", found[idle], np.zeros_like(found[idle]), relative=0.0)


@only_for_spins
def check_disordered_spins(subject: Subject) -> None:
    """With a spin of its own for each atom: forces, and rotations and inversions that turn the spins along."""
    step, structure = 1e-3, _disordered(subject.molecule(4), seed=5)
    moves = np.eye(structure.positions.size).reshape(-1, *structure.positions.shape)
    moved = [structure._replace(positions=structure.positions + s * step * move) for move in moves for s in STENCIL]
    slopes = subject.totals(moved).reshape(-1, 4) @ WEIGHTS / step
    before = subject.evaluate(structure)
    subject.agree(
        "forces between disordered spins and finite differences",
        before.forces, -slopes.reshape(-1, 3), subject.tolerances.derivative,
    )  # fmt: skip
    turned = structure._replace(positions=-structure.positions, spin=-np.asarray(structure.spin))
    subject.agree("inversion of atoms and spins: energy", subject.evaluate(turned).energy, before.energy)


@only_for_spins
def check_spins_matter(subject: Subject) -> None:
    """The energy depends on the spins; reversing all of them moves every virtual atom, so it is no symmetry."""
    structure = _disordered(subject.molecule(), seed=6)
    reversed_ = structure._replace(spin=-np.asarray(structure.spin))
    energies = subject.totals([structure, reversed_])
    if not abs(energies[1] - energies[0]) > 1e-9:
        raise ContractError(f"reversing all spins leaves the energy at {energies[0]:.12g}: it must change")


@only_for_spins
def check_zero_spins(subject: Subject) -> None:
    """Where a spin is zero its virtual atom is at the place of the atom: everything stays finite and continuous."""
    structure = subject.molecule()
    zero = structure._replace(spin=np.zeros_like(structure.positions))
    small = structure._replace(spin=1e-9 * np.ones_like(structure.positions))
    found, near = subject.evaluate(zero), subject.evaluate(small)
    subject.agree("energy of spins of zero and 1e-9 μB", found.energy, near.energy, subject.tolerances.derivative)
    if not np.all(np.isfinite(np.asarray(found.magnetic_forces))):
        raise ContractError("forces on spins of zero are not finite")


def _disordered(structure: Structure, seed: int) -> Structure:
    spins = np.random.default_rng(seed).normal(size=structure.positions.shape)
    return structure._replace(spin=spins)
