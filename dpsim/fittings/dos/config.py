"""Settings of the fitting net of densities of states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.dos.fitting import DOSFitting


class DOSFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its share of the density of states, on a fixed grid."""

    output: ClassVar[str] = "dos"

    type: Literal["dos"] = "dos"
    numb_dos: Annotated[int, Field(gt=0)] = 300
    """Number of grid points."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One number an atom and grid point."""
        return (self.numb_dos,)

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> DOSFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.dos.fitting import DOSFitting

        return DOSFitting(self, n_types, dim_descriptor, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> DOSFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10", numb_dos=5)
