"""Conversion factors and quantities with their unit."""

from __future__ import annotations

import math

import ase.units
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsim import units
from dpsim.errors import ConfigError, DpsimError
from dpsim.units import internal_unit, parse_quantity

FACTORS = {
    ("length", "angstrom"): 1.0,
    ("length", "nm"): ase.units.nm,
    ("length", "bohr"): ase.units.Bohr,
    ("length", "pm"): 0.01,
    ("energy", "eV"): 1.0,
    ("energy", "meV"): 0.001,
    ("energy", "hartree"): ase.units.Hartree,
    ("energy", "kcal/mol"): ase.units.kcal / ase.units.mol,
    ("energy", "kJ/mol"): ase.units.kJ / ase.units.mol,
    ("force", "hartree/bohr"): ase.units.Hartree / ase.units.Bohr,
    ("force", "meV/angstrom"): 0.001,
    ("time", "ps"): 1.0,
    ("time", "fs"): 0.001,
    ("time", "ns"): 1000.0,
    ("temperature", "K"): 1.0,
    ("pressure", "bar"): 1.0,
    ("pressure", "GPa"): ase.units.GPa / ase.units.bar,
    ("pressure", "MPa"): 10.0,
    ("pressure", "Pa"): ase.units.Pascal / ase.units.bar,
    ("pressure", "atm"): 1.01325,
    ("pressure", "kbar"): 1000.0,
    ("walltime", "s"): 1.0,
    ("walltime", "h"): 3600.0,
    ("walltime", "d"): 86400.0,
    ("fraction", "%"): 0.01,
    ("density", "g/cm3"): 1.0,
    ("density", "kg/m3"): 0.001,
}


@pytest.mark.parametrize(("dimension", "unit"), FACTORS)
def test_factors(dimension, unit):
    expected = FACTORS[dimension, unit]
    assert parse_quantity(f"2.5 {unit}", dimension) == pytest.approx(2.5 * expected, rel=1e-9)
    assert parse_quantity(f"2.5{unit}", dimension, bare=False) == pytest.approx(2.5 * expected, rel=1e-9)


def test_constants_are_ases():
    assert pytest.approx(ase.units.Hartree, rel=1e-12) == units.EV_PER_HARTREE
    assert pytest.approx(ase.units.Bohr, rel=1e-12) == units.ANGSTROM_PER_BOHR
    assert pytest.approx(1 / ase.units.GPa, rel=1e-9) == units.GPA_PER_EV_A3
    assert pytest.approx(ase.units.kB, rel=1e-12) == units.BOLTZMANN_EV
    assert pytest.approx(1000 * ase.units.fs, rel=1e-12) == units.ASE_TIME_PER_PS
    assert pytest.approx(ase.units.mol / ase.units.kcal, rel=1e-9) == units.KCAL_PER_MOL_PER_EV


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        (" 1.5e-3 fs ", 1.5e-6),
        ("-2ps", -2.0),
        ("+.5 ps", 0.5),
        ("3.ps", 3.0),
        (7, 7.0),
        (0.25, 0.25),
        ("1E+2 fs", 0.1),
    ],
)
def test_ways_to_write(text, value):
    assert parse_quantity(text, "time") == pytest.approx(value, rel=1e-15)


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_bare_numbers_keep_their_bits(value):
    assert parse_quantity(value, "energy") == value
    assert parse_quantity(repr(value), "energy") == value


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        (
            "2 parsec",
            "length",
            "unit 'parsec' in '2 parsec' is not a unit of length: use one of angstrom, Å, A, nm, bohr, pm",
        ),
        ("2 fs", "length", "unit 'fs' in '2 fs' is not a unit of length"),
        ("2 FS", "time", "unit 'FS' in '2 FS' is not a unit of time: use one of ps, fs, ns"),
        ("fast", "time", "'fast' is not a time: write a number and a unit"),
        ("", "time", "'' is not a time"),
        ("1 2 fs", "time", "unit '2 fs'"),
        ("1_000", "time", "unit '_000'"),
        ("nan", "time", "'nan' is not a time"),
        ("inf ps", "time", "'inf ps' is not a time"),
        ("1e999", "time", "'1e999' is not a time"),
        (math.nan, "time", "nan is not a time"),
        (math.inf, "time", "inf is not a time"),
        (True, "time", "True is not a time"),
        (None, "time", "None is not a time"),
        ("hot", "energy", "'hot' is not an energy: write"),
        ([1.0], "time", r"\[1.0\] is not a time"),
        ("0x10", "length", "unit 'x10'"),
    ],
)
def test_wrong_quantities(text, dimension, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_quantity(text, dimension)
    assert isinstance(caught.value, DpsimError)
    assert caught.value.exit_code == 3


def test_units_may_be_required():
    with pytest.raises(ConfigError, match="'300' has no unit: write one of K"):
        parse_quantity("300", "temperature", bare=False)


@pytest.mark.parametrize(
    ("dimension", "unit"), [("length", "angstrom"), ("time", "ps"), ("pressure", "bar"), ("fraction", "")]
)
def test_internal_units(dimension, unit):
    assert internal_unit(dimension) == unit
