"""Settings of the energy fitting net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.energy.fitting import EnergyFitting


class EnergyFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its energy."""

    output: ClassVar[str] = "energy"

    type: Literal["ener"] = "ener"
    vacuum_types: tuple[bool, ...] | None = None
    """Types whose network gives nothing for an atom without neighbours: its value for a zero descriptor is
    subtracted. Networks that serve all types subtract it for all atoms."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One number an atom."""
        return ()

    def check_types(self, n_types: int) -> None:
        """See `FittingSettings.check_types`."""
        super().check_types(n_types)
        if self.vacuum_types is not None and len(self.vacuum_types) != n_types:
            raise ValueError(f"vacuum_types has {len(self.vacuum_types)} entries, expected one a type ({n_types})")

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> EnergyFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.energy.fitting import EnergyFitting

        return EnergyFitting(self, n_types, dim_descriptor, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> EnergyFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10")
