"""The base class of declarations and its quantities."""

from __future__ import annotations

import json
import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from dpsim.config import (
    Config,
    Density,
    Distance,
    Energy,
    Force,
    Fraction,
    Length,
    Pressure,
    Temperature,
    Time,
    Walltime,
)
from dpsim.descriptors.dpa3.config import RepFlowConfig


class Example(Config):
    """For tests."""

    rcut: Length = "0.6 nm"
    """Cutoff."""
    skin: Distance = 0.0
    energy: Energy = 0.0
    force: Force = 0.0
    dt: Time = "0.5 fs"
    temperature: Temperature = 300
    pressure: Pressure = 1
    limit: Walltime = "2 h"
    share: Fraction = "10 %"
    density: Density = "1 g/cm3"
    factor: float = 1.0


def test_defaults_are_converted():
    example = Example()
    assert example.rcut == pytest.approx(6.0)
    assert example.dt == pytest.approx(5e-4)
    assert example.limit == 7200.0
    assert example.share == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rcut": "6 fs"}, "unit 'fs' in '6 fs' is not a unit of length"),
        ({"rcut": 0}, "greater than 0"),
        ({"rcut": "-1 nm"}, "greater than 0"),
        ({"rcut": math.nan}, "nan is not a length"),
        ({"rcut": True}, "True is not a length"),
        ({"rcut": None}, "None is not a length"),
        ({"skin": -0.1}, "greater than or equal to 0"),
        ({"dt": "0 fs"}, "greater than 0"),
        ({"temperature": "-1 K"}, "greater than or equal to 0"),
        ({"temperature": "20 C"}, "unit 'C' in '20 C' is not a unit of temperature: use one of K"),
        ({"share": 1.1}, "less than or equal to 1"),
        ({"share": "110 %"}, "less than or equal to 1"),
        ({"pressure": "1 psi"}, "is not a unit of pressure"),
        ({"density": "water"}, "'water' is not a density"),
        ({"force": "-1 eV/Å"}, "greater than or equal to 0"),
        ({"energy": "inf eV"}, "'inf eV' is not an energy"),
        ({"limit": "1 week"}, "unit 'week'"),
        ({"factor": math.nan}, "finite number"),
        ({"factor": math.inf}, "finite number"),
        ({"rkut": 6.0}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message) as caught:
        Example(**settings)
    assert caught.value.errors()[0]["loc"] == tuple(settings)


class Numbers(Config):
    """Every way in which a number can be declared."""

    count: int = 1
    factor: float = 1.0
    positive: Annotated[int, Field(gt=0)] | None = None
    widths: tuple[int, ...] = ()
    weights: dict[str, float] = {}
    inner: list[Example] = []
    either: int | str = 1
    switch: bool = True
    on_or_size: bool | float = False


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"count": True}, ("count",)),
        ({"factor": False}, ("factor",)),
        ({"positive": True}, ("positive",)),
        ({"widths": [4, True]}, ("widths", 1)),
        ({"weights": {"energy": True}}, ("weights", "energy")),
        ({"inner": [{"factor": True}]}, ("inner", 0, "factor")),
    ],
)
def test_booleans_are_no_numbers(settings, place):
    with pytest.raises(ValidationError, match=r"valid (integer|number)") as caught:
        Numbers(**settings)
    assert [error["loc"] for error in caught.value.errors()] == [place]
    with pytest.raises(ValidationError):
        Numbers.model_validate_json(json.dumps(settings))


def test_booleans_where_they_belong():
    numbers = Numbers(switch=False, on_or_size=True, count=2.0, factor=3, positive=4, either=5)
    assert (numbers.switch, numbers.on_or_size, numbers.count) == (False, True, 2)
    with pytest.raises(ValidationError):
        Numbers(either=True)
    assert Numbers(either="x").either == "x"


@pytest.mark.parametrize("key", ["nlayers", "e_sel", "update_residual"])
def test_booleans_in_a_model(key):
    with pytest.raises(ValidationError, match=r"valid (integer|number)"):
        RepFlowConfig(**{key: True})


def test_schema_of_numbers_is_plain():
    properties = Numbers.model_json_schema()["properties"]
    assert properties["count"]["type"] == "integer"
    assert properties["positive"]["anyOf"] == [{"exclusiveMinimum": 0, "type": "integer"}, {"type": "null"}]


def test_all_problems_are_reported_together():
    with pytest.raises(ValidationError) as caught:
        Example(rcut="6 fs", dt=-1, typo=1)
    assert {error["loc"][0] for error in caught.value.errors()} == {"rcut", "dt", "typo"}


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Example().rcut = 5.0


def test_wrong_defaults_are_found():
    class Wrong(Config):
        rcut: Length = "6 fs"

    with pytest.raises(ValidationError, match="not a unit of length"):
        Wrong()


@given(st.floats(1e-6, 1e6), st.floats(0, 1), st.floats(-1e9, 1e9))
def test_round_trip(rcut, share, energy):
    example = Example(rcut=rcut, share=share, energy=energy)
    assert Example.model_validate(example.model_dump()) == example
    assert Example.model_validate_json(example.model_dump_json()) == example


def test_schema_has_units_and_documentation():
    properties = Example.model_json_schema()["properties"]
    assert properties["rcut"]["unit"] == "angstrom"
    assert properties["dt"]["unit"] == "ps"
    assert {"type": "string"} in properties["rcut"]["anyOf"]
    assert Example.model_fields["rcut"].description == "Cutoff."
    assert Example.model_json_schema()["additionalProperties"] is False
