"""Checks of sums: copies, images, batches, and structures with few or no atoms."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from dpsim.calculators.evaluate import Prediction
from dpsim.testing.structures import Structure, repeated, with_images
from dpsim.testing.subject import Subject, not_for_spins, turned


def check_extensivity(subject: Subject) -> None:
    """Two copies out of each other's sight have twice the value (an intensive one is the same) and the same forces."""
    structure = subject.molecule()
    far = np.array([10 * subject.potential.cutoff + 50.0, 0.0, 0.0])
    pair = Structure(np.concatenate([structure.positions, structure.positions + far]), np.tile(structure.types, 2))
    _check_copies(subject, "two molecules far apart", subject.evaluate(pair), subject.evaluate(structure), 2)


def check_supercell(subject: Subject) -> None:
    """A supercell of n cells has n times the value (an intensive one is the same) and virial, and the same forces."""
    for name, n_atoms, seed, repeats in (("crystal", 9, 0, (2, 1, 1)), ("small cell", 2, 1, (2, 3, 2))):
        structure = subject.crystal(n_atoms, seed)
        found = subject.evaluate(repeated(structure, repeats))
        _check_copies(
            subject, f"{repeats} supercell of the {name}", found, subject.evaluate(structure), int(np.prod(repeats))
        )


def _check_copies(subject: Subject, what: str, found: Prediction, single: Prediction, copies: int) -> None:
    for field in subject.fields:
        expected = np.asarray(getattr(single, field))
        if field in subject.per_atom:
            expected = np.concatenate([expected] * copies)
        elif not subject.model.intensive:
            expected = copies * expected
        subject.agree(f"{what}: {field}", getattr(found, field), expected)


def check_images(subject: Subject) -> None:
    """Periodic images act like atoms: a cluster of explicit images gives the crystal's atomic values."""
    structure = subject.crystal(2, seed=1)
    layers = 1 + subject.model.message_passing_layers
    cluster = with_images(structure, layers * subject.potential.cutoff)
    found = _atomic(subject, cluster)[: len(structure.types)]
    subject.agree(f"explicit images: {subject.atomic}", found, _atomic(subject, structure))


def _atomic(subject: Subject, structure: Structure) -> np.ndarray:
    return np.asarray(getattr(subject.evaluate(structure), subject.atomic))


def check_batch(subject: Subject) -> None:
    """Frames of different size, boundaries and composition evaluated together equal each evaluated alone."""
    structures = [*subject.samples().values(), _empty(), _single(0), subject.molecule(3, seed=9)]
    for index, (together, structure) in enumerate(zip(subject.evaluate_many(structures), structures, strict=True)):
        subject.agree_all(f"frame {index} of a batch", together, subject.evaluate(structure))


def check_isolated_atom(subject: Subject) -> None:
    """A lone atom has a finite value without any direction, the same in any wide cell; no force and no virial."""
    for t in range(subject.n_types):
        alone = subject.evaluate(_single(t))
        value = np.asarray(getattr(alone, subject.output))
        expected = replace(_prediction(subject, value, value[None], 1), magnetic_forces=alone.magnetic_forces)
        relative = 0.0 if subject.model.spin is None else None  # forces between an atom and its virtual one cancel
        subject.agree_all(f"isolated atom of type {t}", alone, expected, relative)
        quarter = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # about two axes: moves any direction
        subject.agree(f"isolated atom of type {t}, turned", turned(subject.output, value, quarter), value)
        wide = _single(t)._replace(cell=np.eye(3) * 2.5 * subject.potential.cutoff)
        subject.agree_all(f"atom of type {t} in a wide cell", subject.evaluate(wide), expected)


def _prediction(subject: Subject, total: np.ndarray, atomic: np.ndarray, n_atoms: int) -> Prediction:
    """Prediction without forces and virial."""
    values: dict[str, Any] = {subject.output: total, subject.atomic: atomic}
    if subject.output == "energy":
        values |= {"forces": np.zeros((n_atoms, 3)), "virial": np.zeros((3, 3))}
        values |= {} if subject.model.spin is None else {"magnetic_forces": np.zeros((n_atoms, 3))}
    return Prediction(**values)


def check_empty(subject: Subject) -> None:
    """A structure without atoms has a value of zero and empty arrays; one of placeholders has zeros."""
    shape = subject.model.output_shape
    for what, structure, n in (("no atoms", _empty(), 0), ("placeholders only", _placeholders(3), 3)):
        expected = _prediction(subject, np.zeros(shape), np.zeros((n, *shape)), n)
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
        for field in subject.fields:
            what, values = f"placeholders in the {name}", np.asarray(getattr(after, field))
            if field in subject.per_atom:
                subject.agree(f"{what}: their {field}", values[~real], np.zeros_like(values[~real]), relative=0.0)
                values = values[real]
            subject.agree(f"{what}: {field}", values, getattr(before, field))


@not_for_spins
def check_pair_exclusions(subject: Subject) -> None:
    """With every pair of types excluded, atoms are isolated; with one excluded, only that interaction is gone."""
    pairs = tuple(combinations_with_replacement(range(subject.n_types), 2))
    alone = np.array([_atomic(subject, _single(t))[0] for t in range(subject.n_types)])
    none = subject.variant(pair_exclude_types=pairs)
    for name, structure in subject.samples().items():
        prediction, what = none.evaluate(structure), f"{name} with all pairs excluded"
        subject.agree(f"{what}: {subject.atomic}", getattr(prediction, subject.atomic), alone[structure.types])
        if "forces" in subject.fields:
            subject.agree(f"{what}: forces", prediction.forces, np.zeros_like(structure.positions), 0.0)
    structure = subject.molecule()
    only = structure._replace(types=np.where(structure.types == 0, 0, -1))
    cross = subject.variant(pair_exclude_types=pairs[1 : subject.n_types])  # type 0 sees only itself
    found = _atomic(cross, structure)[structure.types == 0]
    expected = _atomic(subject, only)[structure.types == 0]
    subject.agree(f"molecule with type 0 cut off from others: {subject.atomic}", found, expected)


@not_for_spins
def check_atom_exclusions(subject: Subject) -> None:
    """Atoms of an excluded type have no value of their own, do not count in a mean, but act as neighbours."""
    excluded = subject.variant(atom_exclude_types=(subject.n_types - 1,))
    for name, structure in subject.samples().items():
        kept = structure.types != subject.n_types - 1
        found, expected = excluded.evaluate(structure), _atomic(subject, structure).copy()
        expected[~kept] = 0.0
        total = expected.sum(axis=0) / (max(kept.sum(), 1) if subject.model.intensive else 1)
        what = f"{name} with an excluded type"
        subject.agree(f"{what}: {subject.atomic}", getattr(found, subject.atomic), expected)
        subject.agree(f"{what}: {subject.output}", getattr(found, subject.output), total)


def _empty() -> Structure:
    return Structure(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


def _single(t: int) -> Structure:
    return Structure(np.array([[0.3, -0.2, 0.1]]), np.array([t], dtype=np.int64))


def _placeholders(n: int) -> Structure:
    return Structure(np.arange(3.0 * n).reshape(n, 3), np.full(n, -1, dtype=np.int64))
