"""Settings of the property fitting net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.fittings.settings import FittingSettings

if TYPE_CHECKING:
    from dpsim.fittings.property.fitting import PropertyFitting


class PropertyFittingConfig(FittingSettings):
    """Residual network from the descriptor of an atom to its share of any property of the structure."""

    output: ClassVar[str] = "property"

    type: Literal["property"] = "property"
    property_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the property; the data hold it in ``<property_name>.npy``."""
    task_dim: Annotated[int, Field(gt=0)] = 1
    """Number of components."""
    intensive: bool = False
    """The value of a structure is the mean of its atoms instead of the sum."""
    distinguish_types: bool = True
    """Each type has a bias of its own; otherwise all types share one."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One number an atom and component."""
        return (self.task_dim,)

    def build(self, n_types: int, dim_descriptor: int, dim_basis: int, *, mixed_types: bool) -> PropertyFitting:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.fittings.property.fitting import PropertyFitting

        return PropertyFitting(self, n_types, dim_descriptor, mixed_types=mixed_types)

    @classmethod
    def tiny(cls) -> PropertyFittingConfig:
        """Smallest instance, for tests."""
        return cls(neuron=(8, 8), activation_function="silut:10", property_name="gap", task_dim=2, intensive=True)
