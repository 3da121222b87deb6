"""Base class of everything that is declared, and the types its fields are made of.

A component's settings are one `Config`: validation, defaults, units, documentation, JSON schema and the
header of a model file all come from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from dpsim.errors import ConfigError
from dpsim.units import internal_unit, parse_quantity


class InnerErrors(ValueError):
    """Raised in a validator where what it builds is not valid; keeps each problem with its place in the input."""

    def __init__(self, error: ValidationError, *where: str) -> None:
        super().__init__(first_problem(error, *where))
        self.where = where
        """Where in the validated value the inner one is written."""
        self.errors = error.errors(include_url=False)


def first_problem(error: ValidationError, *where: str) -> str:
    """Place and text of the first thing that a validation found."""
    return all_problems(error, *where)[0]


def all_problems(error: ValidationError, *where: str) -> list[str]:
    """Place and text of everything that a validation found."""
    return [
        f"{'.'.join(map(str, (*where, *item['loc'])))}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False)
    ]


def options_by_name(items: Sequence[Any], names: Sequence[str], word: str, wrong: str, *, closed: bool = False) -> Any:
    """Turn a list of names, or of ``{name: {options}}``, into a mapping; for validators.

    Parameters
    ----------
    names
        Names that there are.
    word
        What a name stands for, as "analysis".
    wrong
        What an item that is neither is, as "is not an analysis".
    closed
        Whether other names are refused here; else, by what reads the mapping.

    Raises
    ------
    ValueError
        If an item is neither, or a name is given twice.
    """
    merged: dict[str, Any] = {}
    for item in items:
        entry = {item: {}} if isinstance(item, str) else item
        if not isinstance(entry, dict):
            raise ValueError(f"{item!r} {wrong}: write a name ({', '.join(names)}) or {{name: {{options}}}}")
        for name, options in entry.items():
            if name in merged:
                raise ValueError(f"{word} {name!r} is given twice")
            if closed and name not in names:
                raise ValueError(f"{name!r} is not one of {', '.join(names)}")
            merged[name] = {} if options is None else options
    return merged


def _refuse_booleans(schema: Any) -> None:
    """Guard every number of a core schema, in place: ``nlayers: true`` would otherwise be one layer."""
    if isinstance(schema, list | tuple):
        for part in schema:
            _refuse_booleans(part)
    elif isinstance(schema, dict):
        if schema.get("type") in ("int", "float"):
            inner, check = dict(schema), _not_boolean(f"{schema['type']}_type")
            schema.clear()
            schema.update(core_schema.no_info_before_validator_function(check, inner))
            return
        guarded = schema.get("type") == "function-before" and hasattr(schema["function"]["function"], "refuses_boolean")
        for key in () if guarded else schema.keys() - {"metadata", "default", "serialization", "expected", "ref"}:
            _refuse_booleans(schema[key])


def _not_boolean(error: Any) -> Any:
    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(error)
        return value

    check.refuses_boolean = True  # type: ignore[attr-defined]
    return check


class Config(BaseModel):
    """Immutable settings: unknown keys are refused, field docstrings are their documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _refuse_booleans(schema)
        return schema


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
        "x-dimension": dimension,
        "x-unit": unit,
    }
    return (_reader(dimension), Field(json_schema_extra={"unit": unit}), WithJsonSchema(schema, mode="validation"))


def _step_of_atoms(value: float) -> float:
    if value > LONGEST_TIME_STEP:
        raise ValueError(
            f"a time step of {value:g} ps, expected at most {LONGEST_TIME_STEP:g} ps; write it with its unit, for "
            f"example {min(value, 5):g} fs"
        )
    return value


LONGEST_TIME_STEP = 0.1
"""ps, far beyond what atoms allow."""
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
TimeStep = Annotated[float, Field(gt=0), AfterValidator(_step_of_atoms), *_quantity("time")]
"""A step of molecular dynamics in ps; one that no atom survives was meant in fs."""
Temperature = Annotated[float, Field(ge=0), *_quantity("temperature")]
"""A temperature in K."""
Pressure = Annotated[float, *_quantity("pressure")]
"""A pressure in bar."""
Walltime = Annotated[float, Field(gt=0), *_quantity("walltime")]
"""A wall-clock time in s."""
Memory = Annotated[float, Field(gt=0), *_quantity("memory")]
"""Memory in bytes."""
Fraction = Annotated[float, Field(ge=0, le=1), *_quantity("fraction")]
"""A number between 0 and 1, or a percentage."""
Density = Annotated[float, Field(gt=0), *_quantity("density")]
"""A mass density in g/cm³."""
Frequency = Annotated[float, *_quantity("frequency")]
"""A frequency of vibrations (not an angular one) in THz."""
