"""`SpinModel`: energies of atoms with spins, from a model of the doubled system (spec fittings.md §7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsim.model.base import Model
from dpsim.model.potential import PotentialModel
from dpsim.physics.derivatives import Derivatives, sum_by_frame
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.spin import fold_forces, real_rows

if TYPE_CHECKING:
    from dpsim.model.compose.spin_config import SpinModelConfig


class SpinModel(Model):
    """Energies of the atoms of a doubled system, as `dpsim.physics.spin.spin_graph` makes it."""

    scale: Tensor
    """(n_types,) Å/μB"""

    def __init__(self, config: SpinModelConfig) -> None:
        super().__init__(config)
        self.backbone = PotentialModel(config.backbone)
        self.spin = config.virtual_scale
        self.inputs = self.backbone.inputs
        self.message_passing_layers = self.backbone.message_passing_layers
        self.register_buffer("scale", torch.tensor(config.virtual_scale, dtype=torch.float64), persistent=False)

    @property
    def out_bias(self) -> Tensor:  # type: ignore[override]
        """(n_types,) eV, of the real types; a view into the backbone's."""
        return self.backbone.out_bias[: len(self.type_map)]

    @property
    def out_std(self) -> Tensor:  # type: ignore[override]
        """(n_types,) of the real types, as `out_bias`."""
        return self.backbone.out_std[: len(self.type_map)]

    @property
    def n_row_types(self) -> int:
        """Types of atoms and virtual atoms."""
        return 2 * len(self.type_map)

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Energies of all atoms of the doubled systems ``(N,)``, float64; zero for virtual ones."""
        energies: Tensor = self.backbone(neighborhood)
        return energies

    def derivatives(self, neighborhood: Neighborhood, n_frames: int, *, create_graph: bool = False) -> Derivatives:
        """Energies, forces and virials of the real atoms, and the forces on their spins."""
        both = super().derivatives(neighborhood, n_frames, create_graph=create_graph)
        atoms, _ = real_rows(neighborhood, len(self.scale))
        folded = fold_forces(both.forces, neighborhood, self.scale)
        frame = neighborhood.frame.index_select(0, atoms)
        return Derivatives(
            energy=both.energy,
            forces=folded.forces,
            virial=both.virial + sum_by_frame(folded.virial, frame, n_frames),
            atomic_energy=both.atomic_energy.index_select(0, atoms),
            edge_gradient=both.edge_gradient,
            magnetic_forces=folded.magnetic,
            displacements=both.displacements,
        )
