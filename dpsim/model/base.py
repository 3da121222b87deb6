"""What every model has: its elements, the lists it needs, what it takes and gives, and derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.physics.derivatives import Derivatives, energy_and_derivatives
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import ModelInputs, NeighborSpec

if TYPE_CHECKING:
    from dpsim.model.config import AnyModelConfig


class Compiled(Protocol):
    """What computes instead of a model in the steps of a training; differentiable by its parameters, once."""

    differentiates: bool
    """Whether it gives derivatives; else values alone."""

    def derivatives(self, neighborhood: Neighborhood, n_frames: int) -> Derivatives:
        """As `Model.derivatives` with its graph, without the edge gradient."""

    def values(self, neighborhood: Neighborhood) -> Tensor:
        """As `Model.forward`."""


class Model(nn.Module):
    """Atomic outputs from a neighbourhood.

    Attributes
    ----------
    config
        Settings it was built from.
    neighbors
        Lists of edges it needs.
    inputs
        What it takes beside the structure.
    output
        What it predicts: ``energy``, ``dipole``, ``polarizability``, ``dos``, ``property`` or ``population``.
    output_shape
        Shape of the value of one atom.
    """

    config: Any
    neighbors: NeighborSpec
    inputs: ModelInputs = ModelInputs()
    output: str = "energy"
    output_shape: tuple[int, ...] = ()
    intensive: bool = False
    """Whether the value of a structure is the mean of its atoms instead of the sum."""
    property_name: str = ""
    message_passing_layers: int = 0
    long_range: bool = False
    """Whether `forward` gives the short-range part of the energy only; the rest depends on positions and cell."""
    shortest: float = 0.0
    """Å; closer pairs of atoms are not what the model was made for."""
    spin: tuple[float, ...] | None = None
    """Of spin models, by type: distance of a virtual atom from its atom for a spin of 1 μB, in Å."""
    compiled: Compiled | None = None
    """Computes in the steps of a training, where it is compiled."""
    out_bias: Tensor
    out_std: Tensor

    def __init__(self, config: AnyModelConfig) -> None:
        super().__init__()
        self.config = config
        self.neighbors = config.neighbors()

    @property
    def type_map(self) -> tuple[str, ...]:
        """Chemical symbols by type."""
        return tuple(self.config.type_map)

    @property
    def atom_exclude_types(self) -> tuple[int, ...]:
        """Types whose atoms are neighbours of others but have no output of their own."""
        return tuple(self.config.atom_exclude_types)

    @property
    def n_row_types(self) -> int:
        """Number of types that atoms of a neighbourhood may have."""
        return len(self.type_map)

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits: float32 if any network has it."""
        return str(self.config.precision)

    def with_precision(self, precision: str, fitting: str | None = None) -> Self:
        """Copy of the model whose networks compute in ``"float32"`` or ``"float64"``.

        Parameters
        ----------
        precision
            Of descriptor and fitting net.
        fitting
            Of the fitting net, if it is to differ.
        """
        model: Self = self.config.with_precision(precision, fitting).build(0).to(self.device)
        model.load_state_dict(self.state_dict())
        return model

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.out_bias.device

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic outputs ``(N, *output_shape)``, float64, output bias included."""
        raise NotImplementedError

    def values(self, neighborhood: Neighborhood) -> Tensor:
        """As `forward`, compiled in the steps of a training that is."""
        if torch.is_grad_enabled() and self.compiled is not None and not self.compiled.differentiates:
            return self.compiled.values(neighborhood)
        found: Tensor = self(neighborhood)
        return found

    def derivatives(self, neighborhood: Neighborhood, n_frames: int, *, create_graph: bool = False) -> Derivatives:
        """Energies, forces and virials of the frames of a neighbourhood (single process)."""
        if create_graph and self.compiled is not None and self.compiled.differentiates and not ops.is_any_order():
            return self.compiled.derivatives(neighborhood, n_frames)
        return energy_and_derivatives(self, neighborhood, n_frames, create_graph=create_graph)
