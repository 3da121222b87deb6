"""Fittings: from the features of an atom to its contribution to a property."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dpsim.fittings.dipole.config import DipoleFittingConfig
from dpsim.fittings.dos.config import DOSFittingConfig
from dpsim.fittings.energy.config import EnergyFittingConfig
from dpsim.fittings.polarizability.config import PolarizabilityFittingConfig
from dpsim.fittings.population.config import PopulationFittingConfig
from dpsim.fittings.property.config import PropertyFittingConfig

_Any = (
    EnergyFittingConfig
    | DipoleFittingConfig
    | PolarizabilityFittingConfig
    | DOSFittingConfig
    | PropertyFittingConfig
    | PopulationFittingConfig
)


def _typed(value: Any) -> Any:
    return {"type": "ener", **value} if isinstance(value, dict) and "type" not in value else value


FittingConfig = Annotated[
    Annotated[_Any, Field(discriminator="type")], BeforeValidator(_typed, json_schema_input_type=_Any)
]
"""Union of all fittings; without a `type` it is that of energies."""

__all__ = [
    "DOSFittingConfig",
    "DipoleFittingConfig",
    "EnergyFittingConfig",
    "FittingConfig",
    "PolarizabilityFittingConfig",
    "PopulationFittingConfig",
    "PropertyFittingConfig",
]
