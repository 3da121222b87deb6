"""Base class of everything that is declared, and the types its fields are made of.

A component's settings are one `Config`: validation, defaults, units, documentation, JSON schema and the
header of a model file all come from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from dpsim.errors import ConfigError
from dpsim.units import internal_unit, parse_quantity


class Config(BaseModel):
    """Immutable settings: unknown keys are refused, field docstrings are their documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def _reader(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:
        try:
            return parse_quantity(value, dimension)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def _quantity(dimension: str) -> Any:
    unit = internal_unit(dimension) or "1"
    schema = {
        "anyOf": [{"type": "number"}, {"type": "string"}],
        "description": f"{dimension}; a bare number is in {unit}",
    }
    return (_reader(dimension), Field(json_schema_extra={"unit": unit}), WithJsonSchema(schema, mode="validation"))


Length = Annotated[float, Field(gt=0), *_quantity("length")]
"""A length in Å."""
Distance = Annotated[float, Field(ge=0), *_quantity("length")]
"""A length in Å that may be zero."""
Energy = Annotated[float, *_quantity("energy")]
"""An energy in eV."""
Force = Annotated[float, Field(ge=0), *_quantity("force")]
"""The size of a force in eV/Å."""
Time = Annotated[float, Field(gt=0), *_quantity("time")]
"""A time in ps."""
Temperature = Annotated[float, Field(ge=0), *_quantity("temperature")]
"""A temperature in K."""
Pressure = Annotated[float, *_quantity("pressure")]
"""A pressure in bar."""
Walltime = Annotated[float, Field(gt=0), *_quantity("walltime")]
"""A wall-clock time in s."""
Fraction = Annotated[float, Field(ge=0, le=1), *_quantity("fraction")]
"""A number between 0 and 1, or a percentage."""
Density = Annotated[float, Field(gt=0), *_quantity("density")]
"""A mass density in g/cm³."""
