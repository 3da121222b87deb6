"""Settings of the energy fitting net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from dpsim.config import Config
from dpsim.nn.activation_name import ActivationName

if TYPE_CHECKING:
    from dpsim.fittings.energy.fitting import EnergyFitting


class EnergyFittingConfig(Config):
    """Residual network from the descriptor of an atom to its energy."""

    type: Literal["ener"] = "ener"
    neuron: tuple[Annotated[int, Field(gt=0)], ...] = (120, 120, 120)
    """Widths of the hidden layers."""
    activation_function: ActivationName = "tanh"
    """Activation of the hidden layers."""
    resnet_dt: bool = True
    """Learned scale on the residual updates."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the network."""

    def build(self, n_types: int, dim_descriptor: int, *, mixed_types: bool) -> EnergyFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.energy.fitting import EnergyFitting

        return EnergyFitting(self, n_types, dim_descriptor, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> EnergyFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10")
