"""Settings of the polarizability fitting net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.polarizability.fitting import PolarizabilityFitting


class PolarizabilityFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its polarizability, on the descriptor's directions."""

    output: ClassVar[str] = "polarizability"
    needs_basis: ClassVar[bool] = True

    type: Literal["polar"] = "polar"
    fit_diag: bool = True
    """One number for each direction; otherwise a symmetric matrix over pairs of directions."""
    scale: float | tuple[float, ...] = 1.0
    """Factor of the tensors: one number, or one a type."""
    shift_diag: bool = True
    """Add a constant isotropic tensor to each type, taken from the data before training."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """A tensor an atom."""
        return (3, 3)

    def scales(self, n_types: int) -> tuple[float, ...]:
        """`scale` of every type."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,) * n_types

    def check_types(self, n_types: int) -> None:
        """See `FittingSettings.check_types`."""
        super().check_types(n_types)
        if len(self.scales(n_types)) != n_types:
            raise ValueError(f"scale has {len(self.scales(n_types))} numbers, expected one a type ({n_types}) or one")

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> PolarizabilityFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.polarizability.fitting import PolarizabilityFitting

        return PolarizabilityFitting(self, n_types, dim_descriptor, dim_basis, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> PolarizabilityFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10", scale=(1.2, 0.7))
