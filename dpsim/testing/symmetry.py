"""Checks that what is the same in nature is the same to the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import FrameGraph, InnerEdges
from dpsim.testing.structures import Structure, random_rotation
from dpsim.testing.subject import Subject, only_for, turned


def check_translation(subject: Subject) -> None:
    """Moving everything by one vector changes nothing."""
    for name, structure in subject.samples().items():
        moved = structure._replace(positions=structure.positions + np.array([12.3, -4.56, 0.789]))
        subject.agree_all(f"translation of the {name}", subject.evaluate(moved), subject.evaluate(structure))


def check_rotation(subject: Subject) -> None:
    """Rotations and reflections turn vectors and tensors along and leave everything else unchanged."""
    rng = np.random.default_rng(7)
    for name, structure in subject.samples().items():
        before = subject.evaluate(structure)
        proper = random_rotation(rng)
        for operation, q in (("rotation", proper), ("reflection", -proper)):
            cell = None if structure.cell is None else structure.cell @ q.T
            spin = None if subject.model.spin is None else subject.spins(structure) @ q.T
            after = subject.evaluate(structure._replace(positions=structure.positions @ q.T, cell=cell, spin=spin))
            for field in subject.fields:
                expected = turned(field, getattr(before, field), q)
                subject.agree(f"{operation} of the {name}: {field}", getattr(after, field), expected)


def check_permutation(subject: Subject) -> None:
    """The order of the atoms does not matter."""
    for name, structure in subject.samples().items():
        order = np.random.default_rng(3).permutation(len(structure.types))
        before = subject.evaluate(structure)
        after = subject.evaluate(structure._replace(positions=structure.positions[order], types=structure.types[order]))
        for field in subject.fields:
            expected = np.asarray(getattr(before, field))
            expected = expected[order] if field in subject.per_atom else expected
            subject.agree(f"permutation of the {name}: {field}", getattr(after, field), expected)


def check_edge_order(subject: Subject) -> None:
    """Any order of the edges of a centre gives the same atomic values, forces and virial."""
    for name, structure in subject.samples().items():
        graph = subject.graph(structure)
        before, after = (_raw(subject, g) for g in (graph, _shuffled(graph, np.random.default_rng(5))))
        for field in before:
            subject.agree(f"other order of the edges of the {name}: {field}", after[field], before[field])


def _raw(subject: Subject, graph: FrameGraph) -> dict[str, np.ndarray]:
    """Atomic values of a neighbourhood and, of energies, forces and virial."""
    hood = collate([graph])
    if subject.output != "energy":
        return {subject.atomic: subject.model(hood).detach().numpy()}
    derivatives = subject.model.derivatives(hood, 1)
    return {name: getattr(derivatives, name).numpy() for name in subject.fields if name != "energy"}


def _shuffled(graph: FrameGraph, rng: np.random.Generator) -> FrameGraph:
    order = np.lexsort((rng.random(graph.n_edges), graph.center))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    def moved(lists: tuple[InnerEdges, ...], place: np.ndarray) -> tuple[InnerEdges, ...]:
        out = []
        for one in lists:
            edge = np.sort(place[one.edge])
            inner_place = np.searchsorted(edge, place[one.edge])
            out.append(InnerEdges(edge, moved(one.inner, inner_place)))
        return tuple(out)

    return replace(
        graph,
        displacements=graph.displacements[order],
        center=graph.center[order],
        neighbor=graph.neighbor[order],
        inner=moved(graph.inner, place),
    )


def check_wrapping(subject: Subject) -> None:
    """Atoms may be given in any periodic image."""
    for name, structure in subject.samples().items():
        if structure.cell is None:
            continue
        shifts = np.random.default_rng(2).integers(-3, 4, structure.positions.shape)
        moved = structure._replace(positions=structure.positions + shifts @ structure.cell)
        subject.agree_all(f"{name} with atoms outside the cell", subject.evaluate(moved), subject.evaluate(structure))


def check_handedness(subject: Subject) -> None:
    """Left-handed and skewed cells that span the same lattice give the same."""
    structure = subject.crystal()
    assert structure.cell is not None
    before = subject.evaluate(structure)
    for what, basis in (
        ("left-handed by exchange of vectors", [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ("left-handed by an inverted vector", [[1, 0, 0], [0, -1, 0], [0, 0, 1]]),
        ("skewed", [[1, 0, 0], [1, 1, 0], [-1, 2, 1]]),
    ):
        other = structure._replace(cell=np.array(basis, dtype=float) @ structure.cell)
        subject.agree_all(f"crystal in a {what} cell", subject.evaluate(other), before)


@only_for("energy")
def check_conservation(subject: Subject) -> None:
    """Forces add up to zero and exert no torque on a molecule, and the virial is symmetric.

    Where there are spins, it is the torques on atoms and spins together that vanish, and so the virial has an
    antisymmetric part which that of the spins cancels.
    """
    for name, structure in subject.samples().items():
        prediction = subject.evaluate(structure)
        forces, virial = np.asarray(prediction.forces), np.asarray(prediction.virial)
        subject.agree(f"sum of the forces on the {name}", forces.sum(axis=0), np.zeros(3))
        spins, on_spins = np.zeros_like(forces), np.zeros_like(forces)
        if subject.model.spin is not None:
            spins, on_spins = subject.spins(structure), np.asarray(prediction.magnetic_forces)
        all_strained = virial + on_spins.T @ spins
        subject.agree(f"transposed virial of the {name}", all_strained.T, all_strained)
        if structure.cell is None:
            torque = np.cross(structure.positions, forces) + np.cross(spins, on_spins)
            subject.agree(f"torque on the {name}", torque.sum(axis=0), np.zeros(3))
            expected = forces.T @ structure.positions
            subject.agree(f"virial of the {name} and its sum of force times position", virial, expected)


def check_partial_periodicity(subject: Subject) -> None:
    """Slabs and chains equal the fully periodic structure with a vacuum wider than the cutoff."""
    structure = subject.crystal()
    assert structure.cell is not None
    for periodic in ((True, True, False), (False, True, True), (False, True, False)):
        wide = structure.cell.copy()
        for axis in (k for k in range(3) if not periodic[k]):
            extent = np.abs(structure.positions @ _normal(structure.cell, axis)).max()
            wide[axis] *= (2 * extent + 2 * subject.potential.cutoff) / abs(
                structure.cell[axis] @ _normal(structure.cell, axis)
            )
        expected = subject.evaluate(structure._replace(cell=wide))
        found = subject.evaluate(structure._replace(periodic=periodic))
        subject.agree_all(f"crystal with periodic={periodic}", found, expected)
        flat = np.where(np.array(periodic)[:, None], structure.cell, 0.0)
        found = subject.evaluate(Structure(structure.positions, structure.types, flat, periodic))
        subject.agree_all(f"crystal with periodic={periodic} and no vectors elsewhere", found, expected)


def _normal(cell: np.ndarray, axis: int) -> np.ndarray:
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    return normal / np.linalg.norm(normal)
