"""Checks of sums: copies, images, batches, and structures with few or no atoms."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from dpsim.calculators.evaluate import Prediction
from dpsim.testing.structures import Structure, repeated, with_images
from dpsim.testing.subject import Subject


def check_extensivity(subject: Subject) -> None:
    """Two copies out of each other's sight have twice the energy and the same forces."""
    structure = subject.molecule()
    far = np.array([10 * subject.potential.cutoff + 50.0, 0.0, 0.0])
    pair = Structure(np.concatenate([structure.positions, structure.positions + far]), np.tile(structure.types, 2))
    _check_copies(subject, "two molecules far apart", subject.evaluate(pair), subject.evaluate(structure), 2)


def check_supercell(subject: Subject) -> None:
    """A supercell of n cells has n times the energy and the virial, and the same forces."""
    for name, n_atoms, seed, repeats in (("crystal", 9, 0, (2, 1, 1)), ("small cell", 2, 1, (2, 3, 2))):
        structure = subject.crystal(n_atoms, seed)
        found = subject.evaluate(repeated(structure, repeats))
        _check_copies(
            subject, f"{repeats} supercell of the {name}", found, subject.evaluate(structure), int(np.prod(repeats))
        )


def _check_copies(subject: Subject, what: str, found: Prediction, single: Prediction, copies: int) -> None:
    subject.agree(f"{what}: energy", found.energy, copies * np.asarray(single.energy))
    subject.agree(f"{what}: virial", found.virial, copies * np.asarray(single.virial))
    subject.agree(f"{what}: atomic_energy", found.atomic_energy, np.tile(np.asarray(single.atomic_energy), copies))
    subject.agree(f"{what}: forces", found.forces, np.tile(np.asarray(single.forces), (copies, 1)))


def check_images(subject: Subject) -> None:
    """Periodic images act like atoms: a cluster of explicit images gives the crystal's atomic energies."""
    structure = subject.crystal(2, seed=1)
    layers = 1 + subject.model.message_passing_layers
    cluster = with_images(structure, layers * subject.potential.cutoff)
    found = np.asarray(subject.evaluate(cluster).atomic_energy)[: len(structure.types)]
    subject.agree("explicit images: atomic_energy", found, subject.evaluate(structure).atomic_energy)


def check_batch(subject: Subject) -> None:
    """Frames of different size, boundaries and composition evaluated together equal each evaluated alone."""
    structures = [*subject.samples().values(), _empty(), _single(0), subject.molecule(3, seed=9)]
    for index, (together, structure) in enumerate(zip(subject.evaluate_many(structures), structures, strict=True)):
        subject.agree_all(f"frame {index} of a batch", together, subject.evaluate(structure))


def check_isolated_atom(subject: Subject) -> None:
    """A lone atom has a finite energy, the same in any wide cell, and exactly no force and no virial."""
    for t in range(subject.n_types):
        alone = subject.evaluate(_single(t))
        zero = Prediction(alone.energy, np.zeros((1, 3)), np.zeros((3, 3)), np.array([alone.energy]))
        subject.agree_all(f"isolated atom of type {t}", alone, zero, relative=0.0)
        wide = _single(t)._replace(cell=np.eye(3) * 2.5 * subject.potential.cutoff)
        subject.agree_all(f"atom of type {t} in a wide cell", subject.evaluate(wide), zero)


def check_empty(subject: Subject) -> None:
    """A structure without atoms has no energy and empty arrays; one of placeholders has zeros."""
    for what, structure, n in (("no atoms", _empty(), 0), ("placeholders only", _placeholders(3), 3)):
        expected = Prediction(0.0, np.zeros((n, 3)), np.zeros((3, 3)), np.zeros(n))
        for cell in (None, np.eye(3) * 5.0):
            subject.agree_all(what, subject.evaluate(structure._replace(cell=cell)), expected, relative=0.0)


def check_placeholders(subject: Subject) -> None:
    """Atoms of type −1 change nothing, wherever they are, and get zeros."""
    for name, structure in subject.samples().items():
        n = len(structure.types)
        positions = np.insert(structure.positions, [0, n // 2, n], structure.positions[[0, 1, 0]], axis=0)
        types = np.insert(structure.types, [0, n // 2, n], -1)
        real = types >= 0
        before, after = (
            subject.evaluate(structure),
            subject.evaluate(structure._replace(positions=positions, types=types)),
        )
        what = f"placeholders in the {name}"
        subject.agree(f"{what}: energy", after.energy, before.energy)
        subject.agree(f"{what}: virial", after.virial, before.virial)
        for field in ("atomic_energy", "forces"):
            values = np.asarray(getattr(after, field))
            subject.agree(f"{what}: {field}", values[real], getattr(before, field))
            subject.agree(f"{what}: their {field}", values[~real], np.zeros_like(values[~real]), relative=0.0)


def check_pair_exclusions(subject: Subject) -> None:
    """With every pair of types excluded, atoms are isolated; with one excluded, only that interaction is gone."""
    pairs = tuple(combinations_with_replacement(range(subject.n_types), 2))
    alone = [subject.evaluate(_single(t)).energy for t in range(subject.n_types)]
    none = subject.variant(pair_exclude_types=pairs)
    for name, structure in subject.samples().items():
        expected = np.array([alone[t] for t in structure.types])
        prediction = none.evaluate(structure)
        subject.agree(f"{name} with all pairs excluded: atomic_energy", prediction.atomic_energy, expected)
        subject.agree(
            f"{name} with all pairs excluded: forces", prediction.forces, np.zeros_like(structure.positions), 0.0
        )
    structure = subject.molecule()
    only = structure._replace(types=np.where(structure.types == 0, 0, -1))
    cross = subject.variant(pair_exclude_types=pairs[1 : subject.n_types])  # type 0 sees only itself
    found = np.asarray(cross.evaluate(structure).atomic_energy)[structure.types == 0]
    expected = np.asarray(subject.evaluate(only).atomic_energy)[structure.types == 0]
    subject.agree("molecule with type 0 cut off from others: atomic_energy", found, expected)


def check_atom_exclusions(subject: Subject) -> None:
    """Atoms of an excluded type have no energy of their own but act as neighbours."""
    excluded = subject.variant(atom_exclude_types=(subject.n_types - 1,))
    for name, structure in subject.samples().items():
        full = np.asarray(subject.evaluate(structure).atomic_energy)
        found = excluded.evaluate(structure)
        expected = np.where(structure.types == subject.n_types - 1, 0.0, full)
        subject.agree(f"{name} with an excluded type: atomic_energy", found.atomic_energy, expected)
        subject.agree(f"{name} with an excluded type: energy", found.energy, expected.sum())


def _empty() -> Structure:
    return Structure(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


def _single(t: int) -> Structure:
    return Structure(np.array([[0.3, -0.2, 0.1]]), np.array([t], dtype=np.int64))


def _placeholders(n: int) -> Structure:
    return Structure(np.arange(3.0 * n).reshape(n, 3), np.full(n, -1, dtype=np.int64))
