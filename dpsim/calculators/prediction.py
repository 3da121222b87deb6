"""What a model says of a structure: `Prediction`, and how it is put together from atoms and edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpsim import ops
from dpsim.calculators.engines import ModelFacts
from dpsim.physics.derivatives import forces_from_edges
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.spin import fold_forces, real_rows

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure; members that do not apply are None. Units: eV, Å."""

    energy: float | None = None
    forces: FloatArray | None = None
    """(n_atoms, 3) eV/Å"""
    virial: FloatArray | None = None
    """(3, 3) eV, −dE/dstrain, also of open boundaries; with a volume it gives the stress, −virial/volume."""
    atomic_energy: FloatArray | None = None
    """(n_atoms,) eV"""
    atomic_virial: FloatArray | None = None
    """(n_atoms, 3, 3) eV; only its sum is defined for message passing."""
    magnetic_forces: FloatArray | None = None
    """(n_atoms, 3) −dE/dspin, eV/μB"""
    dipole: FloatArray | None = None
    """(3,) sum of the atoms'; the unit is that of the labels."""
    polarizability: FloatArray | None = None
    """(3, 3) sum of the atoms'"""
    dos: FloatArray | None = None
    """(n_points,) sum of the atoms'"""
    property: FloatArray | None = None
    """(n,) sum of the atoms', or their mean for an intensive property"""
    population: FloatArray | None = None
    """(2,) electrons of either spin, sum of the atoms'"""
    atomic_dipole: FloatArray | None = None
    """(n_atoms, 3)"""
    dipole_forces: FloatArray | None = None
    """(n_atoms, 3, 3) −d(dipole)/dr: atom, component of the dipole, direction; see `Potential.dipole_derivatives`"""
    dipole_virial: FloatArray | None = None
    """(3, 3, 3) −d(dipole)/dstrain: component of the dipole first"""
    atomic_polarizability: FloatArray | None = None
    """(n_atoms, 3, 3)"""
    atomic_dos: FloatArray | None = None
    """(n_atoms, n_points)"""
    atomic_property: FloatArray | None = None
    """(n_atoms, n)"""
    atomic_population: FloatArray | None = None
    """(n_atoms, 2)"""


def predictions(
    facts: ModelFacts, hood: Neighborhood, atomic: Tensor, gradient: Tensor | None, masks: Sequence[BoolArray]
) -> Iterator[Prediction]:
    """Predictions of the frames of a neighbourhood.

    Parameters
    ----------
    atomic, gradient
        What the engine gave: (N, *shape), and (E, 3) for energies.
    masks
        Of every frame, which of its atoms are no placeholders.
    """
    values, counted = atomic.numpy(), ~np.isin(hood.types.numpy(), facts.atom_exclude_types)
    if gradient is not None:
        energies, forces, magnetic, virials = _of_atoms(facts, hood, atomic, gradient)
    start = 0
    for real in masks:
        rows = slice(start, start + int(real.sum()))
        start = rows.stop
        if gradient is None:
            yield _tensor(facts, values[rows], counted[rows], real)
            continue
        yield Prediction(
            energy=float(energies[rows].sum()),
            forces=full_rows(forces[rows], real),
            virial=virials[rows].sum(axis=0),
            atomic_energy=full_rows(energies[rows], real),
            atomic_virial=full_rows(virials[rows], real),
            magnetic_forces=None if magnetic is None else full_rows(magnetic[rows], real),
        )


def _of_atoms(
    facts: ModelFacts, hood: Neighborhood, atomic: Tensor, gradient: Tensor
) -> tuple[FloatArray, FloatArray, FloatArray | None, FloatArray]:
    """Energies, forces, forces on spins and virials of all atoms; a virtual atom counts as a part of its atom."""
    forces = forces_from_edges(gradient, hood)
    per_edge = -(gradient.unsqueeze(2) * hood.displacements.unsqueeze(1))
    virials = ops.scatter_rows(per_edge, hood.neighbor, hood.types)
    if facts.spin is None:
        return atomic.numpy(), forces.numpy(), None, virials.numpy()
    atoms, virtual = real_rows(hood, len(facts.spin))
    folded = fold_forces(forces, hood, torch.tensor(facts.spin, dtype=torch.float64))
    virials = virials[atoms] + virials[virtual] + folded.virial
    return atomic[atoms].numpy(), folded.forces.numpy(), folded.magnetic.numpy(), virials.numpy()


def dipole_prediction(
    facts: ModelFacts, hood: Neighborhood, atomic: Tensor, gradients: Tensor, real: BoolArray
) -> Prediction:
    """Prediction for the one frame of a neighbourhood, with the derivatives of its dipole.

    Parameters
    ----------
    atomic, gradients
        Dipoles (N, 3), and the edge gradients (3, E, 3) of the sum of each component.
    real
        Which atoms are no placeholders.
    """
    (plain,) = predictions(facts, hood, atomic, None, [real])
    forces = np.stack([forces_from_edges(gradient, hood).numpy() for gradient in gradients], axis=1)
    virial = -np.einsum("cek,el->ckl", gradients.numpy(), hood.displacements.numpy())
    return replace(plain, dipole_forces=full_rows(forces, real), dipole_virial=virial)


def _tensor(facts: ModelFacts, values: FloatArray, counted: BoolArray, real: BoolArray) -> Prediction:
    total = values.sum(axis=0)
    if facts.intensive:
        total = total / max(np.count_nonzero(counted), 1)
    return Prediction(**{facts.output: total, f"atomic_{facts.output}": full_rows(values, real)})


def full_rows(values: FloatArray, real: BoolArray) -> FloatArray:
    """Rows of all atoms, zero for placeholders."""
    out = np.zeros((len(real), *values.shape[1:]))
    out[real] = values
    return out
