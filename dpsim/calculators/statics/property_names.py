"""Names of what is computed of crystals, in groups, and their dimensions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dpsim.errors import ConfigError
from dpsim.units import internal_unit, parse_quantity

GROUPS = ("relax", "eos", "elastic", "vacancy", "surface", "neb", "phonon")
_KNOWN: tuple[tuple[str, str, str], ...] = (
    ("relax", r"[abc]", "length"),
    ("relax", r"alpha|beta|gamma", "angle"),
    ("relax", r"volume", "volume of an atom"),
    ("relax", r"energy", "energy of an atom"),
    ("eos", r"V0", "volume of an atom"),
    ("eos", r"E0", "energy of an atom"),
    ("eos", r"B0", "modulus"),
    ("eos", r"B0_prime", "fraction"),
    ("elastic", r"C[1-6][1-6]|bulk_modulus|shear_modulus|youngs_modulus", "modulus"),
    ("elastic", r"poisson_ratio|anisotropy", "fraction"),
    ("vacancy", r"vacancy_[A-Z][a-z]?(_\d+)?", "energy"),
    ("surface", r"surface_(-?\d){3,}", "surface energy"),
    ("neb", r"neb_barrier|neb_reverse_barrier|neb_reaction_energy", "energy"),
    ("phonon", r"phonon_highest|phonon_lowest", "frequency"),
    ("phonon", r"zero_point_energy", "energy of an atom"),
)
"""Group, pattern of names, dimension."""
DIMENSIONS = ("fraction", *sorted({dimension for _, _, dimension in _KNOWN} - {"fraction"}))
"""All of them."""
_SOME = "a, V0, B0, C11, bulk_modulus, vacancy_Cu, surface_111, neb_barrier, phonon_highest"


def _known(name: str) -> tuple[str, str]:
    for group, pattern, dimension in _KNOWN:
        if re.fullmatch(pattern, name):
            return group, dimension
    raise ConfigError(f"{name!r} is not the name of a property: write names such as {_SOME}")


def dimension_of(name: str) -> str:
    """Return the dimension of a property.

    Raises
    ------
    ConfigError
        If it is not the name of one.
    """
    return _known(name)[1]


def group_of(name: str) -> str:
    """Return what is computed to get a property.

    Raises
    ------
    ConfigError
        If it is not the name of one.
    """
    return _known(name)[0]


def check_tolerance(text: str, key: str, computed: Iterable[str]) -> None:
    """Check that a tolerance says something: that its group is computed, and that its unit is one of it.

    Parameters
    ----------
    text
        A share of the reference, or a quantity with its unit.
    key
        A property, a group, or empty for all that is computed.
    computed
        Groups.

    Raises
    ------
    ConfigError
        If it does not.
    """
    computed = tuple(computed)
    where = f"tolerance.{key}" if key else "tolerance"
    if key in GROUPS or not key:
        groups = (key,) if key else computed
        dimensions = {dimension for group, _, dimension in _KNOWN if group in groups}
    else:
        try:
            groups, dimensions = (group_of(key),), {dimension_of(key)}
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}, or groups: {', '.join(GROUPS)}") from None
    if not set(groups) & set(computed):
        raise ConfigError(f"{where} has no effect: {groups[0]} is not computed; add it to 'compute' or take it out")
    if not any(_reads(text, dimension) for dimension in ("fraction", *dimensions)):
        units = ", ".join(sorted(internal_unit(one) for one in dimensions - {"fraction"}))
        quantity = f" or a quantity in {units}" if units else ""
        raise ConfigError(f"{where} is {text!r}, expected a share ('5 %'){quantity}")


def _reads(text: str, dimension: str) -> bool:
    try:
        return parse_quantity(text, dimension, bare=dimension == "fraction") is not None
    except ConfigError:
        return False
