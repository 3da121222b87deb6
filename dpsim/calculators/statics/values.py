"""Values with units, the reference they are compared with, and the tables of both."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpsim.calculators.statics.property_names import dimension_of, group_of
from dpsim.data.files import write_text
from dpsim.errors import ConfigError, DataError
from dpsim.units import internal_unit, parse_quantity

_LARGEST_FILE = 10_000_000
_ZERO = 1e-9
"""In any unit; a reference below is zero but for rounding."""


class Value(NamedTuple):
    """One number of one structure, in the unit of its dimension."""

    structure: str
    name: str
    value: float

    @property
    def unit(self) -> str:
        """Unit of the number."""
        return internal_unit(dimension_of(self.name))

    @property
    def group(self) -> str:
        """What is computed to get it."""
        return group_of(self.name)


class Compared(NamedTuple):
    """One number beside its reference; `limit` is the largest difference that is allowed, None if nothing is."""

    value: Value
    reference: float
    limit: float | None
    source: str

    @property
    def difference(self) -> float:
        """Number less reference."""
        return self.value.value - self.reference

    @property
    def relative(self) -> float | None:
        """Difference as a share of the reference; None if that is zero."""
        return self.difference / abs(self.reference) if abs(self.reference) > _ZERO else None

    @property
    def within(self) -> bool | None:
        """Whether the difference is allowed; None if nothing was said."""
        return None if self.limit is None else abs(self.difference) <= self.limit * (1 + 1e-12)


class Reference(NamedTuple):
    """A reference value and where it comes from."""

    value: float
    source: str


References = dict[str, dict[str, Reference]]
"""Reference values by structure and name; the structure "" is any."""


def read_references(path: Path) -> References:
    """Read reference values from a YAML or JSON file, or from the table of another properties stage.

    A file is ``{structure: {property: value}}``, or ``{property: value}`` for any structure. A value is a number in
    dpsim's unit, a quantity with its unit, or ``{value: ..., source: ...}``.

    Raises
    ------
    DataError
        If the file cannot be read.
    ConfigError
        If a name is not that of a property, or a quantity has a wrong unit.
    """
    if path.suffix == ".csv":
        return _from_table(path)
    raw = _document(path)
    if not isinstance(raw, Mapping) or not raw:
        raise DataError(f"reference {path} holds no mapping, expected {{structure: {{property: value}}}}")
    nested = {str(key): value for key, value in raw.items() if isinstance(value, Mapping) and "value" not in value}
    flat = {str(key): value for key, value in raw.items() if str(key) not in nested}
    if flat:
        nested[""] = {**nested.get("", {}), **flat}
    return {
        structure: {
            str(name): _reference(str(name), value, f"{path}: {structure or name}") for name, value in own.items()
        }
        for structure, own in nested.items()
    }


def _document(path: Path) -> Any:
    import yaml

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"reference {path} is larger than {_LARGEST_FILE} bytes, expected a table of values")
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"reference {path} cannot be read: {' '.join(str(error).split())}") from None


def _reference(name: str, value: Any, where: str) -> Reference:
    source = ""
    if isinstance(value, Mapping):
        if extra := sorted(str(key) for key in value.keys() - {"value", "source"}):
            raise ConfigError(f"{where}: {name} has the key {extra[0]!r}, expected value and source")
        value, source = value["value"], str(value.get("source", ""))
    try:
        return Reference(parse_quantity(value, dimension_of(name)), source)
    except ConfigError as error:
        raise ConfigError(f"{where}: {name}: {error}") from None


def _from_table(path: Path) -> References:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found: References = {}
        for row in rows:
            found.setdefault(row["structure"], {})[row["property"]] = Reference(float(row["value"]), "")
            dimension_of(row["property"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"reference {path} is no table of a properties stage: {error}") from None
    if not found:
        raise DataError(f"reference {path} holds no values")
    return found


def compare(
    values: Sequence[Value], references: References, tolerance: str | Mapping[str, str]
) -> tuple[list[Compared], list[str]]:
    """Put values beside their reference.

    Parameters
    ----------
    values
        What was computed.
    references
        From `read_references`.
    tolerance
        For all values, or by name or group; a share of the reference, or a quantity.

    Returns
    -------
    list of Compared
        In the order of the values.
    list of str
        Reference values without counterpart, as ``structure.property``.
    """
    found, used = [], set()
    for one in values:
        for structure in (one.structure, ""):
            reference = references.get(structure, {}).get(one.name)
            if reference is not None:
                used.add((structure, one.name))
                limit = _limit(one, reference.value, tolerance)
                found.append(Compared(one, reference.value, limit, reference.source))
                break
    unused = [
        f"{structure}.{name}" if structure else name
        for structure, own in references.items()
        for name in own
        if (structure, name) not in used
    ]
    return found, unused


def _limit(one: Value, reference: float, tolerance: str | Mapping[str, str]) -> float | None:
    if isinstance(tolerance, str):
        return _quantity(tolerance, one, reference)
    for name in (one.name, one.group):
        if name in tolerance:
            return _quantity(tolerance[name], one, reference)
    return None


def _quantity(text: str, one: Value, reference: float) -> float | None:
    """The limit that a text means; a quantity of another dimension says nothing of this value."""
    try:
        return parse_quantity(text, "fraction") * abs(reference)
    except ConfigError:
        pass
    try:
        return parse_quantity(text, dimension_of(one.name), bare=False)
    except ConfigError:
        return None


# ---- tables --------------------------------------------------------------------------------------


def write_values(path: Path, values: Iterable[Value]) -> None:
    """Write ``structure, group, property, value, unit``."""
    rows = ([one.structure, one.group, one.name, _text(one.value), one.unit] for one in values)
    _write(path, ("structure", "group", "property", "value", "unit"), rows)


COMPARED = (
    "structure", "group", "property", "value", "reference", "unit", "difference", "difference_percent", "tolerance",
    "within", "source",
)  # fmt: skip


def write_compared(path: Path, compared: Iterable[Compared]) -> None:
    """Write values, references and differences; ``within`` is yes, no, or empty where there is no tolerance."""
    rows = (
        [
            one.value.structure, one.value.group, one.value.name, _text(one.value.value), _text(one.reference),
            one.value.unit, _text(one.difference), "" if one.relative is None else f"{100 * one.relative:.4g}",
            "" if one.limit is None else _text(one.limit), {None: "", True: "yes", False: "no"}[one.within], one.source,
        ]
        for one in compared
    )  # fmt: skip
    _write(path, COMPARED, rows)


def _text(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
