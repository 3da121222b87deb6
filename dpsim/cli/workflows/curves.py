"""Which curves are in the files that stages leave, for ``dpsim show``."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from dpsim.cli.workflows.text_plot import Curves

Columns = Mapping[str, list[float]]
_MOST: Final = 6
"""Curves in one picture that can still be told apart."""
_MAIN: Final = ("lcurve.csv", "rdf.csv", "msd.csv", "thermo.csv", "bands.csv", "properties.json", "histogram.csv",
                "iterations.csv")  # fmt: skip
"""Files whose curves are shown with the numbers of a stage, the telling ones first."""
_SIMPLE: Final = {
    "rdf.csv": "radial distribution",
    "msd.csv": "mean square displacement (Å²)",
    "vdos.csv": "vibrational density of states",
    "vacf.csv": "velocity autocorrelation",
    "density.csv": "density (g/cm³)",
    "dos.csv": "phonon density of states",
}
"""Titles of tables whose first column is the axis and whose others are curves."""
_LOSSES: Final = {"energy": "eV/atom", "forces": "eV/Å", "virial": "eV/atom"}
_THERMO: Final = {"temperature_K": "temperature (K)", "potential_eV": "potential energy (eV)",
                  "pressure_bar": "pressure (bar)", "volume_A3": "volume (Å³)"}  # fmt: skip


def main_curves(folder: Path) -> list[Curves]:
    """Return the most telling curves of a stage, at most two."""
    found = [one for name in _MAIN if (folder / name).is_file() for one in curves_of(folder / name)]
    return found[:2]


def curves_of(path: Path) -> list[Curves]:
    """Return the curves in a file, none if it is not known to hold some."""
    if path.name == "properties.json":
        return list(_equations_of_state(path))
    if path.suffix not in (".csv", ".out"):
        return []
    columns = _columns(path)
    if len(next(iter(columns.values()), ())) < 2:
        return []
    return list(_of_table(path.name, columns))


def _of_table(name: str, columns: Columns) -> Iterator[Curves]:
    names = list(columns)
    first, rest = names[0], names[1:]
    if name == "lcurve.csv":
        yield from _training(columns)
    elif name in _SIMPLE:
        yield Curves(_SIMPLE[name], first, columns[first], {one: columns[one] for one in rest[:_MOST]})
    elif name == "thermo.csv" and "time_ps" in columns:
        for column, title in _THERMO.items():
            if column in columns and len({f"{value:.9g}" for value in columns[column]}) > 1:
                yield Curves(title, "time (ps)", columns["time_ps"], {title: columns[column]})
    elif name == "thermal.csv":
        for column in rest:
            yield Curves(column, first, columns[first], {column: columns[column]})
    elif name in ("bands.csv", "bands_reference.csv"):
        modes = {one: columns[one] for one in names if one.startswith("mode_")}
        yield Curves("phonon bands (THz)", "distance", columns["distance"], modes, joined=False, same=True)
    elif name == "histogram.csv" and {"low_eV_A", "high_eV_A"} <= columns.keys():
        classes = {one: columns[one] for one in names if one not in ("low_eV_A", "high_eV_A")}
        yield Curves("frames by deviation", "eV/Å", columns["low_eV_A"], classes)
    elif name == "iterations.csv" and "value" in columns:
        yield Curves("value by iteration", first, columns[first], {"value": columns["value"]})
    elif name == "model_devi.out" and "max_devi_f" in columns:
        shown = {one: columns[one] for one in ("max_devi_f", "avg_devi_f") if one in columns}
        yield Curves("deviation of forces (eV/Å)", "row" if _begins_again(columns["step"]) else "step",
                     _axis(columns["step"]), shown)  # fmt: skip


def _training(columns: Columns) -> Iterator[Curves]:
    """Yield the errors of each quantity, or the loss where there are none."""
    any_shown = False
    for quantity, unit in _LOSSES.items():
        shown = {part: columns[f"rmse_{quantity}_{part}"] for part in ("train", "valid")
                 if any(map(math.isfinite, columns.get(f"rmse_{quantity}_{part}", ())))}  # fmt: skip
        if shown:
            any_shown = True
            yield Curves(f"error of {quantity} ({unit})", "step", columns["step"], shown, log=True)
    if not any_shown and "loss" in columns:
        yield Curves("loss", "step", columns["step"], {"loss": columns["loss"]}, log=True)


def _equations_of_state(path: Path) -> Iterator[Curves]:
    found: Any = json.loads(path.read_text(encoding="utf-8"))
    details = found.get("details") if isinstance(found, dict) else None
    for name, one in details.items() if isinstance(details, dict) else ():
        eos = one.get("eos") if isinstance(one, dict) else None
        if isinstance(eos, dict) and {"volumes_A3_atom", "energies_eV_atom"} <= eos.keys():
            yield Curves(f"energy of {name} (eV/atom)", "volume (Å³/atom)", eos["volumes_A3_atom"],
                         {"energy": eos["energies_eV_atom"]})  # fmt: skip


def _columns(path: Path) -> dict[str, list[float]]:
    """Return the columns of numbers of a table; a field that is none is NaN, a column without any is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            rows = list(csv.reader(file))
        else:
            rows = [line.lstrip("#").split() for line in file if line.strip()]
    if not rows:
        return {}
    header, *body = rows
    columns = {
        name: [_number(row[at]) if at < len(row) else math.nan for row in body] for at, name in enumerate(header)
    }
    return {name: values for name, values in columns.items() if any(map(math.isfinite, values))}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _begins_again(steps: Sequence[float]) -> bool:
    return any(after <= before for before, after in pairwise(steps))


def _axis(steps: list[float]) -> list[float]:
    """Return steps, or numbers of rows where they begin again with another structure."""
    return [float(number) for number in range(len(steps))] if _begins_again(steps) else steps
