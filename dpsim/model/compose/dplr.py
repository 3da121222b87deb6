"""`DPLRModel`: short-range energies, and the electrostatics of ions and Wannier centroids (spec fittings.md §5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from torch import Tensor

from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.compose.linear import CombinedModel
from dpsim.physics.centroids import LongRange, SmearedCharges, electrostatics
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.model.compose.dplr_config import DPLRModelConfig


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
            dipoles = self.dipoles(neighborhood._replace(displacements=displacements))

        def pull(forces: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad((forces * dipoles).sum(), displacements, materialize_grads=True)
            return slope

        return electrostatics(neighborhood, positions, cells, self.charges, dipoles.detach(), pull)

    @property
    def charges(self) -> SmearedCharges:
        """Charges by type, and how their energy is summed."""
        return SmearedCharges(self.ion_charge, self.centroid_charge, self.config.ewald_h, self.config.ewald_beta)


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
