"""What a data set holds: a table of systems and labels, and one of compositions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dpsim.data.dataset import AnySystem, Dataset
from dpsim.data.distances import closest_pair
from dpsim.data.frame import formula
from dpsim.fields import FIELDS


@dataclass(frozen=True)
class SystemSummary:
    """One system folder."""

    system: str
    format: str
    frames: int
    atoms: tuple[int, int]
    """Smallest and largest number of atoms of a frame."""
    periodic: bool
    formulas: dict[str, int]
    """Number of frames of each composition."""
    fields: dict[str, int]
    """Number of frames that have each field."""
    min_distance: float | None = None
    """Å; None if it was not asked for, or no two atoms are near."""


@dataclass(frozen=True)
class Summary:
    """A data set in numbers."""

    type_map: tuple[str, ...]
    frames: int
    systems: tuple[SystemSummary, ...]
    compositions: dict[str, int]
    """Number of frames of each formula, most frequent first."""
    fields: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return the label table: one line a system, the number of frames that carry each field."""
        shown = [entry.name for entry in FIELDS if entry.name in self.fields]
        distances = any(row.min_distance is not None for row in self.systems)
        header = ["system", "frames", "atoms", "formula", *shown] + (["closest/Å"] if distances else [])
        lines = []
        for row in self.systems:
            low, high = row.atoms
            cells = [row.system, str(row.frames), str(low) if low == high else f"{low}-{high}", _formulas(row.formulas)]
            cells += [str(row.fields.get(name, 0)) for name in shown]
            if distances:
                cells.append("-" if row.min_distance is None else f"{row.min_distance:.3f}")
            lines.append(cells)
        total = ["total", str(self.frames), "", f"{len(self.compositions)} compositions"]
        lines.append(total + [str(self.fields[name]) for name in shown] + ([""] if distances else []))
        return format_table(header, lines)


def summarize(dataset: Dataset, *, distances: bool = False) -> Summary:
    """Count frames, atoms, compositions and labels of a data set.

    Parameters
    ----------
    dataset
        Any data set; only its types are read, unless `distances`.
    distances
        Whether to look for the closest pair of atoms in every frame.
    """
    rows = tuple(_summarize_system(system, distances) for system in dataset.systems)
    compositions: Counter[str] = Counter()
    for row in rows:
        compositions.update(row.formulas)
    return Summary(dataset.type_map, len(dataset), rows, dict(compositions.most_common()), dataset.labels)


def _summarize_system(system: AnySystem, distances: bool) -> SystemSummary:
    formulas: Counter[str] = Counter()
    sizes = set()
    for i in range(system.n_frames if system.mixed else min(1, system.n_frames)):
        types = system.types(i)
        sizes.add(len(types))
        formulas[formula(types, system.type_map)] += 1 if system.mixed else system.n_frames
    nearest = (
        min((closest_pair(system.frame(i))[0] for i in range(system.n_frames)), default=None) if distances else None
    )
    return SystemSummary(
        system.name,
        system.format,
        system.n_frames,
        (min(sizes, default=0), max(sizes, default=0)),
        system.periodic,
        dict(formulas.most_common()),
        system.labels,
        None if nearest == float("inf") else nearest,
    )


def _formulas(formulas: dict[str, int]) -> str:
    names = list(formulas)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned text table; columns of numbers are flush right."""
    columns = list(zip(header, *rows, strict=True))
    numeric = [
        all(cell.replace(".", "").replace("-", "").isdigit() or not cell for cell in column[1:]) for column in columns
    ]
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), *map(line, rows)])
