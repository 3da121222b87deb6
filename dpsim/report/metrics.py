"""The numbers that a stage left, flat and with units, to be laid side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsim.report.artifacts import read_object
from dpsim.report.blocks import Section, Table, number

MAX_METRICS = 60
"""Numbers of one stage that are laid side by side."""
_SKIPPED = {"format", "systems", "energy_bias", "type_map", "index", "rows", "begin", "end", "made", "attempts", "seed",
            "tolerance", "bins", "r_max", "timestep_ps", "intercept_eV", "shares", "version"}  # fmt: skip
_UNITS = {"energy": "eV/atom", "forces": "eV/Å", "virial": "eV/atom", "seconds": "s", "magnetic_forces": "eV/μB"}
_FEW = {
    "convert": ("frames", "fields.", "parts.", "compositions."),
    "freeze": ("checks.", "compile_seconds"),
    "train": ("parameters", "step", "best.", "seconds_per_step", "seconds", "frames."),
    "select": ("frames", "selected", "accurate", "candidate", "failed", "low", "high", "deviation"),
    "md": ("atoms", "steps_per_second", "segments.", "diffusion", "rdf", "drift"),
}
"""Beginnings of the numbers that say most of a stage of some type; of other types, all are taken."""


@dataclass(frozen=True)
class Row:
    """One number in several columns."""

    name: str
    unit: str
    values: tuple[float | None, ...]

    def change(self) -> float | None:
        """Return how much the last differs from the first, relative to the first; None if that means nothing."""
        first, last = self.values[0], self.values[-1]
        if first is None or last is None or not first or not (math.isfinite(first) and math.isfinite(last)):
            return None
        return (last - first) / abs(first)


def stage_metrics(section: Section) -> dict[str, float]:
    """Return the numbers in the JSON files at the top of a stage's outputs.

    Names are dotted; a mean stands for its group, ``temperature_K.mean`` becomes ``temperature_K``. The same number
    in two files is taken once.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    found: dict[str, float] = {}
    paths = sorted(section.out.glob("*.json")) if section.out.is_dir() else [section.out]
    for path in paths:
        if path.suffix == ".json" and path.is_file():
            for name, value in _numbers(read_object(path), ""):
                found.setdefault(name.removeprefix("overall."), value)
    wanted = _FEW.get(section.type)
    if wanted:
        found = {name: value for name, value in found.items() if name.startswith(wanted)}
    return dict(list(found.items())[:MAX_METRICS])


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, Mapping):
        if "mean" in value and isinstance(value["mean"], int | float):
            yield name, float(value["mean"])
            return
        for key, item in value.items():
            if str(key) not in _SKIPPED and name.count(".") < 4:
                yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, item in enumerate(value):
            if "property" in item and isinstance(item.get("value"), int | float):
                words = [str(item[key]) for key in ("structure", "property") if key in item]
                unit = f" ({item['unit']})" if item.get("unit") else ""
                yield ".".join(words) + unit, float(item["value"])
            else:
                yield from _numbers(item, f"{name}.{index}")


def rows(columns: Sequence[Mapping[str, float]]) -> list[Row]:
    """Return the numbers of several stages, each name once, in the order in which they appear."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [Row(name, unit_of(name), tuple(column.get(name) for column in columns)) for name in names]


def unit_of(name: str) -> str:
    """Return the unit of a number by its name, empty where the name says it itself or there is none."""
    if name.startswith("fields."):
        return ""  # these are counts
    last = name.rpartition(".")[2].removeprefix("rmse_").removeprefix("mae_")
    last = last.removesuffix("_rmse").removesuffix("_mae")
    return _UNITS.get(last, "s" if name.endswith(("seconds", "seconds_per_step")) else "")


def table(caption: str, header: Sequence[str], found: Sequence[Row], *, change: bool) -> Table:
    """Return rows as a table of a report, with the change from the first to the last column if wanted."""
    lines = []
    for row in found:
        cells = [number(value, 4) for value in row.values]
        lines.append((row.name, row.unit, *cells, *([percent(row.change())] if change else [])))
    return Table(caption, ("", "unit", *header, *(["change"] if change else [])), lines, text=(1,), limit=200)


def percent(value: float | None) -> str:
    """Write a relative change for people."""
    if value is None:
        return "–"
    if abs(value) < 5e-5:
        return "0 %"
    return f"{100 * value:+.{1 if abs(value) < 10 else 0}f} %".replace("-", "\u2212")


def section_of(name: str, described: Mapping[str, Any], out: Path) -> Section:
    """Return the section of a stored stage."""
    return Section(name, str(described.get("type")), out, dict(described.get("options", {})))
