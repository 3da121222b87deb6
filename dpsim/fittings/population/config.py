"""Settings of the fitting net of spin populations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.population.fitting import PopulationFitting


class PopulationFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its numbers of electrons of either spin."""

    output: ClassVar[str] = "population"

    type: Literal["population"] = "population"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Two numbers an atom."""
        return (2,)

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> PopulationFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.population.fitting import PopulationFitting

        return PopulationFitting(self, n_types, dim_descriptor, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> PopulationFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10")
