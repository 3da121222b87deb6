"""Looking for what is wrong in a data set: broken values, missing labels, duplicates, collisions, outliers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.data import Dataset, Frame, open_dataset
from dpsim.data.distances import pairs
from dpsim.data.frame import check_cell, check_finite, fingerprint
from dpsim.data.summary import Summary, format_table, summarize
from dpsim.errors import DataError
from dpsim.fields import BY_NAME

__all__ = ["InspectionReport", "Problem", "inspect_dataset"]


@dataclass
class Problem:
    """One kind of thing that is wrong, and where."""

    kind: str
    """nan, bad_cell, missing_type, missing_label, duplicate, duplicate_<part>_<part>, too_close, force_outlier,
    energy_outlier."""
    message: str
    """One sentence about the first or worst case."""
    frames: list[str] = field(default_factory=list)
    """All frames concerned, as ``part: system/set.000#12``."""


@dataclass
class InspectionReport:
    """What was found."""

    problems: list[Problem]
    table: str
    """Systems and labels of each part, then compositions, as text."""
    parts: dict[str, Summary]
    largest_force: float | None
    """eV/Å; None if no frame has forces."""

    def count(self, kind: str) -> int:
        """Return the number of frames with a problem of a kind; ``duplicate`` counts those between parts too."""
        return sum(len(p.frames) for p in self.problems if p.kind == kind or p.kind.startswith(f"{kind}_"))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "problems": [asdict(problem) for problem in self.problems],
            "parts": {name: summary.to_dict() for name, summary in self.parts.items()},
            "largest_force": self.largest_force,
        }


@dataclass
class _Found:
    """What one pass over the frames collects."""

    broken: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    prints: dict[bytes, list[tuple[str, str]]] = field(default_factory=dict)
    forces: list[tuple[float, str]] = field(default_factory=list)
    energies: list[tuple[float, np.ndarray, str]] = field(default_factory=list)

    def add(self, kind: str, where: str, message: str) -> None:
        self.broken.setdefault(kind, []).append((where, message))


def inspect_dataset(
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset],
    *,
    type_map: Sequence[str] | None = None,
    labels: Sequence[str] = ("energy", "forces"),
    contact: float = 0.6,
    min_distance: float | None = None,
    force_max: float | None = None,
    deviations: float = 10.0,
) -> InspectionReport:
    """Read every frame of a data set and report what looks wrong.

    Parameters
    ----------
    data
        A folder (with ``train``, ``valid``, ``test`` in it, these are the parts), a data set, or parts by name.
    type_map
        Elements that may occur; others are reported.
    labels
        Fields that every frame should have.
    contact
        Atoms nearer than this share of the sum of their covalent radii are too close.
    min_distance
        Å; overrides `contact` with one distance for all pairs.
    force_max
        eV/Å; larger forces are reported. By default, those far from the rest of the data are.
    deviations
        How many robust standard deviations from the median count as far.

    Raises
    ------
    DataError
        If the data cannot be opened at all.
    """
    parts = _open(data)
    unknown = [name for name in labels if name not in BY_NAME]
    if unknown:
        raise DataError(f"labels: {', '.join(unknown)} is not a field, expected some of {', '.join(BY_NAME)}")
    found = _Found()
    for part, dataset in parts.items():
        prefix = f"{part}: " if part else ""
        for system in dataset.systems:
            for i in range(system.n_frames):
                frame = system.frame(i, check=False)
                _look(
                    frame, prefix + frame.source, part, dataset.type_map, type_map, labels, contact, min_distance, found
                )
    problems = [
        Problem(kind, f"{cases[0][0]}: {cases[0][1]}", [where for where, _ in cases])
        for kind, cases in found.broken.items()
    ]
    problems += _duplicates(found.prints) + _force_outliers(found.forces, force_max, deviations)
    problems += _energy_outliers(found.energies, deviations)
    summaries = {part or ".": summarize(dataset) for part, dataset in parts.items()}
    largest = max((force for force, _ in found.forces), default=None)
    return InspectionReport(problems, _table(summaries), summaries, largest)


def _open(data: str | Path | Dataset | Mapping[str, str | Path | Dataset]) -> dict[str, Dataset]:
    if isinstance(data, Dataset):
        return {"": data}
    if not isinstance(data, Mapping):
        names = [name for name in ("train", "valid", "test") if (Path(data) / name).is_dir()]
        data = {name: Path(data) / name for name in names} if names else {"": data}
    opened = {part: one if isinstance(one, Dataset) else open_dataset(one) for part, one in data.items()}
    names = list(dict.fromkeys(name for dataset in opened.values() for name in dataset.type_map))
    return {
        part: dataset if dataset.type_map == tuple(names) else open_dataset([s.path for s in dataset.systems], names)
        for part, dataset in opened.items()
    }


def _look(
    frame: Frame,
    where: str,
    part: str,
    names: Sequence[str],
    allowed: Sequence[str] | None,
    labels: Sequence[str],
    contact: float,
    min_distance: float | None,
    found: _Found,
) -> None:
    """Examine one frame by itself."""
    outside = sorted({names[t] for t in frame.types} - set(allowed)) if allowed is not None else []
    if outside:
        found.add("missing_type", where, f"has {', '.join(outside)}, not in the type_map ({' '.join(allowed or ())})")
    missing = [name for name in labels if name not in frame.labels]
    if missing:
        found.add("missing_label", where, f"has no {', '.join(missing)}")
    try:
        check_finite(frame.positions, "coordinates", "")
        for name, value in frame.labels.items():
            check_finite(value, name, "")
        if frame.cell is not None:
            check_finite(frame.cell, "box", "")
    except DataError as error:
        found.add("nan", where, str(error).removeprefix(": "))
        return
    try:
        check_cell(frame.cell, frame.n_atoms, "")
    except DataError as error:
        found.add("bad_cell", where, str(error).removeprefix(": "))
        return
    found.prints.setdefault(fingerprint(frame), []).append((part, where))
    close = _too_close(frame, names, contact, min_distance)
    if close:
        found.add("too_close", where, close)
    if "forces" in frame.labels and frame.n_atoms > 1:
        found.forces.append((float(np.linalg.norm(frame.labels["forces"], axis=1).max()), where))
    if "energy" in frame.labels and frame.n_atoms > 0:
        counts = np.bincount(frame.types, minlength=len(names)).astype(float)
        found.energies.append((float(frame.labels["energy"]), counts, where))


def _too_close(frame: Frame, names: Sequence[str], contact: float, min_distance: float | None) -> str | None:
    from ase.data import atomic_numbers, covalent_radii

    radii = np.array([covalent_radii[atomic_numbers.get(name, 0)] for name in names])
    least = (
        np.full((len(names),) * 2, min_distance) if min_distance is not None else contact * np.add.outer(radii, radii)
    )
    present = np.unique(frame.types)
    if len(present) == 0 or least[np.ix_(present, present)].max() <= 0:
        return None
    i, j, d = pairs(frame, float(least[np.ix_(present, present)].max()))
    limit = least[frame.types[i], frame.types[j]]
    bad = np.flatnonzero(d < limit)
    if len(bad) == 0:
        return None
    k = bad[np.argmin((d / limit)[bad])]
    pair = f"{names[frame.types[i[k]]]} {i[k]} and {names[frame.types[j[k]]]} {j[k]}"
    return f"atoms {pair} are {d[k]:.3f} Å apart, expected at least {limit[k]:.3f} Å"


def _duplicates(prints: Mapping[bytes, Sequence[tuple[str, str]]]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for places in prints.values():
        if len(places) < 2:
            continue
        first_of: dict[str, str] = {}
        for part, where in places:
            for other, first in first_of.items():
                kind = "duplicate" if other == part else f"duplicate_{other}_{part}"
                problem = problems.setdefault(kind, Problem(kind, f"{where} is the same structure as {first}"))
                problem.frames.append(where)
            first_of.setdefault(part, where)
    return list(problems.values())


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Return median and robust standard deviation (from the median absolute deviation)."""
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))


_ENOUGH = 10
"""Frames from which a spread is judged."""


def _force_outliers(forces: Sequence[tuple[float, str]], force_max: float | None, deviations: float) -> list[Problem]:
    """Report the largest forces, judged on a logarithmic scale, for they span orders of magnitude."""
    limit, reason = force_max, "given as force_max"
    if limit is None:
        moving = np.log([force for force, _ in forces if force > 1e-8])
        if len(moving) < _ENOUGH:
            return []
        median, spread = _robust(moving)
        limit = float(np.exp(median + deviations * max(spread, 0.1)))
        reason = f"from the median {np.exp(median):.3g} eV/Å and the spread of the data"
    bad = sorted(((force, where) for force, where in forces if force > limit), reverse=True)
    if not bad:
        return []
    message = f"{bad[0][1]}: a force is {bad[0][0]:.4g} eV/Å, expected at most {limit:.4g} eV/Å ({reason})"
    return [Problem("force_outlier", message, [where for _, where in bad])]


def _energy_outliers(energies: Sequence[tuple[float, np.ndarray, str]], deviations: float) -> list[Problem]:
    """Report energies per atom far from a fit of one energy for each element."""
    if len(energies) < _ENOUGH:
        return []
    counts = np.array([row for _, row, _ in energies])
    values = np.array([energy for energy, _, _ in energies])
    atoms = counts.sum(axis=1)
    weights = np.ones(len(values))
    for _ in range(20):  # least absolute deviations by reweighting, so that outliers do not steer the fit
        scale = (weights / atoms)[:, None]
        fitted, *_ = np.linalg.lstsq(counts * scale, values * scale[:, 0], rcond=None)
        residual = (values - counts @ fitted) / atoms
        weights = 1 / np.sqrt(np.maximum(np.abs(residual), 1e-6))
    median, spread = _robust(residual)
    limit = max(deviations * spread, 0.1)
    far = np.abs(residual - median)
    bad = [int(k) for k in np.argsort(-far) if far[k] > limit]
    if not bad:
        return []
    message = (
        f"{energies[bad[0]][2]}: the energy is {residual[bad[0]] - median:+.3f} eV an atom away from what "
        f"its composition suggests, expected within {limit:.3f} eV"
    )
    return [Problem("energy_outlier", message, [energies[k][2] for k in bad])]


def _table(summaries: Mapping[str, Summary]) -> str:
    blocks = [(f"{part}\n" if len(summaries) > 1 else "") + summary.table() for part, summary in summaries.items()]
    total: dict[str, Counter[str]] = {}
    for part, summary in summaries.items():
        for formula, count in summary.compositions.items():
            total.setdefault(formula, Counter())[part] += count
    rows = [[formula, *[str(counts[part]) for part in summaries]] for formula, counts in total.items()]
    header = ["composition", *(["frames"] if len(summaries) == 1 else list(summaries))]
    return "\n\n".join([*blocks, format_table(header, rows)])
