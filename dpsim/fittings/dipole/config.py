"""Settings of the dipole fitting net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.dipole.fitting import DipoleFitting


class DipoleFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its dipole, a combination of the descriptor's directions."""

    output: ClassVar[str] = "dipole"
    needs_basis: ClassVar[bool] = True

    type: Literal["dipole"] = "dipole"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """A vector an atom."""
        return (3,)

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> DipoleFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.dipole.fitting import DipoleFitting

        return DipoleFitting(self, n_types, dim_descriptor, dim_basis, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> DipoleFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10")
