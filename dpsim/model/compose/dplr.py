"""`DPLRModel`: short-range energies, and the electrostatics of ions and Wannier centroids (spec fittings.md §5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from dpsim import ops
from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.compose.linear import CombinedModel
from dpsim.physics.derivatives import forces_from_edges
from dpsim.physics.ewald import Reciprocal, reciprocal
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.model.compose.dplr_config import DPLRModelConfig


class LongRange(NamedTuple):
    """Electrostatic energy of atoms and what follows from it; N atoms of all frames."""

    atomic_energy: Tensor
    """(N,) eV: the shares of an atom's ion and centroid."""
    forces: Tensor
    """(N, 3) eV/Å; centroids follow the atoms as their dipoles do."""
    atomic_virial: Tensor
    """(N, 3, 3) eV; the sum over a frame is −dE/dstrain."""


class DPLRModel(CombinedModel):
    """Short-range energies as a function of edges; the electrostatics needs positions and cells beside them."""

    long_range = True
    ion_charge: Tensor
    centroid_charge: Tensor

    def __init__(self, config: DPLRModelConfig) -> None:
        super().__init__(config)
        for name, charges in (("ion_charge", config.sys_charge_map), ("centroid_charge", config.model_charge_map)):
            by_type = [charges.get(symbol, 0.0) for symbol in config.type_map]
            self.register_buffer(name, torch.tensor(by_type, dtype=torch.float64), persistent=False)

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` of the short-range part in eV, float64, output bias included."""
        return self.with_bias(self.member(0, neighborhood), neighborhood)

    def dipoles(self, neighborhood: Neighborhood) -> Tensor:
        """Displacement ``(N, 3)`` of each atom's centroid, Å, float64."""
        return self.member(1, neighborhood)

    def electrostatics(self, neighborhood: Neighborhood, positions: Tensor, cells: Tensor) -> LongRange:
        """Electrostatic part of periodic frames.

        Parameters
        ----------
        positions
            (N, 3) Å of the atoms of all frames, float64.
        cells
            (F, 3, 3) Å.
        """
        displacements = neighborhood.displacements.detach().requires_grad_(True)
        with torch.enable_grad():
            hood = neighborhood._replace(displacements=displacements)
            dipoles = self.dipoles(hood)
            ions, centroids = self._sums(hood, positions, dipoles.detach(), cells)
            work = (centroids.forces * dipoles).sum()
            (slope,) = torch.autograd.grad(work, displacements, materialize_grads=True)
        gradient = -slope
        by_edge = -(gradient.unsqueeze(2) * neighborhood.displacements.unsqueeze(1))
        # the virial of the sums moves the centroids with the cell: what that adds to their dipoles is taken out
        stretched = centroids.forces.unsqueeze(2) * dipoles.detach().unsqueeze(1)
        virial = ions.atomic_virial + centroids.atomic_virial - stretched
        return LongRange(
            atomic_energy=ions.atomic_energy + centroids.atomic_energy,
            forces=ions.forces + centroids.forces + forces_from_edges(gradient, neighborhood),
            atomic_virial=virial + ops.scatter_rows(by_edge, neighborhood.neighbor, neighborhood.types),
        )

    def _sums(
        self, hood: Neighborhood, positions: Tensor, dipoles: Tensor, cells: Tensor
    ) -> tuple[Reciprocal, Reciprocal]:
        """Ewald sums of all frames, their rows divided into those of ions and those of centroids."""
        ion, centroid = (charge.index_select(0, hood.types) for charge in (self.ion_charge, self.centroid_charge))
        found = []
        for f, cell in enumerate(cells):
            mine = hood.frame == f
            sites = torch.cat([positions[mine], positions[mine] + dipoles[mine]])
            charges = torch.cat([ion[mine], centroid[mine]])
            found.append(reciprocal(sites, charges, cell, self.config.ewald_h, self.config.ewald_beta))
        return _joined(found, 0), _joined(found, 1)


def compose(
    model: Model,
    dipole: Model,
    model_charge_map: Mapping[str, float],
    sys_charge_map: Mapping[str, float],
    *,
    ewald_h: float = 1.0,
    ewald_beta: float = 0.4,
) -> DPLRModel:
    """Model of a short-range model and one of Wannier centroids, with the charges by element; see `DPLRModelConfig`.

    Raises
    ------
    ConfigError
        If the models or the charges do not fit each other.
    """
    from dpsim.model.compose.dplr_config import DPLRModelConfig

    try:
        config = DPLRModelConfig(
            type_map=model.type_map,
            model=model.config,
            dipole=dipole.config,
            model_charge_map=dict(model_charge_map),
            sys_charge_map=dict(sys_charge_map),
            ewald_h=ewald_h,
            ewald_beta=ewald_beta,
        )
    except ValidationError as error:
        raise ConfigError(first_problem(error, "dplr")) from None
    whole = DPLRModel(config).to(model.device)
    for part, given in zip(whole.models, (model, dipole), strict=True):
        part.load_state_dict(given.state_dict())
    return whole


def _joined(frames: list[Reciprocal], half: int) -> Reciprocal:
    """First or second half of the rows of each frame, all frames in one."""
    rows = []
    for frame in frames:
        n = len(frame.forces) // 2
        mine = slice(half * n, (half + 1) * n)
        rows.append((frame.forces[mine], frame.atomic_energy[mine], frame.atomic_virial[mine]))
    forces, energy, virial = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Reciprocal(energy.sum(), forces, virial.sum(0), energy, virial)
