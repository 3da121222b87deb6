"""Numbers about labels and neighbourhoods of a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dpsim.data import Dataset
from dpsim.data.distances import closest_pair, neighbor_counts
from dpsim.data.summary import format_table
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field


@dataclass(frozen=True)
class FieldStatistics:
    """Spread of one field over the frames that have it."""

    field: str
    unit: str
    """Unit of the numbers; energies and virials are for one atom."""
    frames: int
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class NeighborStatistics:
    """How crowded atoms are within a cutoff."""

    cutoff: float
    """Å."""
    mean: float
    """Neighbours of an atom, on average."""
    most: int
    """Largest number of neighbours of one atom."""
    most_by_type: dict[str, int]
    """Largest number of neighbours of each element."""
    min_distance: float | None
    """Å; None if no two atoms are near."""
    nearest: str
    """Frame of the closest pair."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def _extensive(entry: Field) -> bool:
    return entry.label and entry.kind == "frame" and entry.unit == "eV"


class _Running:
    """Mean and spread of numbers that come in batches (Chan, Golub and LeVeque's update)."""

    def __init__(self) -> None:
        self.frames, self.n = 0, 0
        self.mean, self.squares = 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Take the values of one frame."""
        self.frames += 1
        if values.size == 0:
            return
        mean, n = float(values.mean()), self.n + values.size
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift**2 * self.n * values.size / n
        self.mean += shift * values.size / n
        self.n, self.low, self.high = n, min(self.low, float(values.min())), max(self.high, float(values.max()))


def field_statistics(dataset: Dataset) -> list[FieldStatistics]:
    """Return mean, spread and range of every field that occurs; energies and virials for one atom."""
    running: dict[str, _Running] = {}
    for frame in dataset:
        for entry in FIELDS:
            if entry.name in frame.labels:
                value = frame.labels[entry.name] / (max(frame.n_atoms, 1) if _extensive(entry) else 1)
                running.setdefault(entry.name, _Running()).add(value)
    return [_finish(entry, running[entry.name]) for entry in FIELDS if entry.name in running]


def _finish(entry: Field, run: _Running) -> FieldStatistics:
    std = float(np.sqrt(run.squares / run.n)) if run.n else 0.0
    low, high = (run.low, run.high) if run.n else (0.0, 0.0)
    unit = f"{entry.unit}/atom" if _extensive(entry) else entry.unit
    return FieldStatistics(entry.name, unit, run.frames, run.mean, std, low, high)


def statistics_text(rows: list[FieldStatistics]) -> str:
    """Return the statistics as a text table."""
    cells = [[r.field, r.unit, str(r.frames), *(f"{x:.5g}" for x in (r.mean, r.std, r.min, r.max))] for r in rows]
    return format_table(["field", "unit", "frames", "mean", "std", "min", "max"], cells)


def neighbor_statistics(dataset: Dataset, cutoff: float) -> NeighborStatistics:
    """Count neighbours within `cutoff` (Å) of every atom of every frame.

    Raises
    ------
    DataError
        If `cutoff` is not positive.
    """
    if not cutoff > 0:
        raise DataError(f"cutoff is {cutoff} Å, expected more than zero")
    atoms, total, most = 0, 0, 0
    by_type = np.zeros(len(dataset.type_map), np.int64)
    nearest, where = np.inf, ""
    for frame in dataset:
        counts = neighbor_counts(frame, cutoff, len(dataset.type_map))
        atoms, total = atoms + len(counts), total + int(counts.sum())
        if len(counts):
            most = max(most, int(counts.sum(axis=1).max()))
            by_type = np.maximum(by_type, counts.max(axis=0))
        distance = closest_pair(frame)[0]
        if distance < nearest:
            nearest, where = distance, frame.source
    return NeighborStatistics(
        cutoff,
        total / atoms if atoms else 0.0,
        most,
        {name: int(n) for name, n in zip(dataset.type_map, by_type, strict=True)},
        None if np.isinf(nearest) else float(nearest),
        where,
    )
