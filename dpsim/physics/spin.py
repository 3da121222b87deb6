"""The doubled system of spin models (spec fittings.md §7).

To each atom with a spin s belongs a virtual atom at ``r + λ s``, where λ (Å/μB) depends on the type; atoms of types
without spin have one too, at their own place, that no list holds. Of n atoms and n_types types, atom i + n is the
virtual one of atom i, and its type is that of the atom plus n_types. Energies are those of the atoms; with F' the
force on its virtual atom, an atom feels ``F + F'`` and its spin ``λ F'``. As the distance of a virtual atom does not
change with the cell, the virial is that of the doubled system less ``Σ F' ⊗ λ s``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import FloatArray, FrameGraph, IntArray, NeighborSpec, frame_graph


class Doubled(NamedTuple):
    """Atoms, then their virtual atoms."""

    positions: FloatArray
    """(2n, 3) Å"""
    types: IntArray
    """(2n,)"""
    offsets: FloatArray
    """(2n, 3) Å; zero for the first half."""


def doubled(positions: FloatArray, types: IntArray, spins: FloatArray, scale: Sequence[float]) -> Doubled:
    """The doubled system of n atoms.

    Parameters
    ----------
    positions, spins
        (n, 3) Å and μB.
    types
        (n,), no placeholders.
    scale
        λ of each type, Å/μB; 0 where it has no spin.
    """
    offsets = np.asarray(scale, dtype=np.float64)[types][:, None] * spins
    return Doubled(
        np.concatenate([positions, positions + offsets]),
        np.concatenate([types, types + len(scale)]),
        np.concatenate([np.zeros_like(offsets), offsets]),
    )


def spin_graph(
    positions: FloatArray,
    types: IntArray,
    cell: FloatArray | None,
    spec: NeighborSpec,
    periodic: tuple[bool, bool, bool] | None,
    spins: FloatArray,
    scale: Sequence[float],
) -> FrameGraph:
    """Neighbourhood of the doubled system of one frame; arguments as of `doubled` and `frame_graph`.

    Raises
    ------
    DataError
        If two atoms are at one place. A virtual atom may be where its atom is.
    """
    both = doubled(positions, types, spins, scale)
    graph = frame_graph(both.positions, both.types, cell, spec, periodic, n_real=len(types))
    return replace(graph, offsets=both.offsets)


class Folded(NamedTuple):
    """Forces of the doubled systems of a neighbourhood, as those on n atoms and their spins."""

    forces: Tensor
    """(n, 3) eV/Å"""
    magnetic: Tensor
    """(n, 3) eV/μB; zero where the type has no spin."""
    virial: Tensor
    """(n, 3, 3) eV: what the fixed spins add to the virial of the doubled system."""


def real_rows(hood: Neighborhood, n_types: int) -> tuple[Tensor, Tensor]:
    """Rows (n,) of the atoms and, in the same order, of their virtual atoms."""
    is_real = hood.types < n_types
    return torch.nonzero(is_real)[:, 0], torch.nonzero(~is_real)[:, 0]


def fold_forces(forces: Tensor, hood: Neighborhood, scale: Tensor) -> Folded:
    """Forces on atoms and spins from those ``(2n, 3)`` on all atoms of the doubled systems; `scale` is λ by type."""
    assert hood.offsets is not None
    atoms, virtual = real_rows(hood, len(scale))
    on_virtual, offsets = forces.index_select(0, virtual), hood.offsets.index_select(0, virtual)
    return Folded(
        forces=forces.index_select(0, atoms) + on_virtual,
        magnetic=scale.index_select(0, hood.types.index_select(0, atoms)).unsqueeze(1) * on_virtual,
        virial=-on_virtual.unsqueeze(2) * offsets.unsqueeze(1),
    )
