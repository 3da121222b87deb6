"""What a report is made of: blocks with facts, tables and figures, which the template lays out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_ROWS = 40
"""Rows of a table that are shown if nothing else is said; what is left out is counted."""


@dataclass(frozen=True)
class Section:
    """One stage whose outputs are shown.

    Attributes
    ----------
    name
        Of the stage.
    type
        Of the stage; `report.build.MAKERS` says which have a part of the page of their own.
    out
        Folder of its outputs.
    options
        Its options, as declared.
    """

    name: str
    type: str
    out: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """Identifier for links."""
        return "".join(c if c.isalnum() else "-" for c in f"{self.type}-{self.name}")


@dataclass(frozen=True)
class Card:
    """One key figure at the top of the page."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: inline SVG, what a reader without eyes is told, and a caption."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, the others hold numbers unless `text` names them."""

    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    text: tuple[int, ...] = ()
    """Columns that hold words."""
    limit: int = MAX_ROWS
    """Rows that are shown."""

    def compact(self) -> Table:
        """The same without columns that say nothing in any row."""
        kept = [
            i for i in range(len(self.header)) if not i or any(row[i] not in ("–", "none", "") for row in self.rows)
        ]
        rows = [tuple(row[i] for i in kept) for row in self.rows]
        text = tuple(place for place, i in enumerate(kept) if i in self.text)
        return Table(self.caption, tuple(self.header[i] for i in kept), rows, text, self.limit)

    @property
    def shown(self) -> list[tuple[str, ...]]:
        """The rows that fit."""
        return self.rows[: self.limit]

    @property
    def hidden(self) -> int:
        """Number of rows left out."""
        return max(0, len(self.rows) - self.limit)


@dataclass(frozen=True)
class Share:
    """A part of a bar: name, value as text, and its percentage."""

    name: str
    value: str
    percent: float
    color: int | None = None
    """Place in `figures.SERIES`; by default the place in the bar."""


@dataclass(frozen=True)
class Block:
    """One part of the page.

    Attributes
    ----------
    anchor
        Identifier for links.
    kind
        What it shows, e.g. "Training".
    lead
        A sentence or two.
    facts
        Name and value, shown in a row.
    summary
        Values for ``summary.json``.
    three
        Whether figures stand three in a row where there is room, rather than two.
    """

    anchor: str
    kind: str
    stage: str
    lead: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    bars: list[tuple[str, list[Share]]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    three: bool = False


def number(value: Any, digits: int = 3) -> str:
    """Write a number for people: `digits` significant digits, a true minus, powers of ten only where they help."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if not math.isfinite(value):
        return "not a number"
    if isinstance(value, int) or (value == int(value) and abs(value) < 10**digits):
        return f"{int(value):,}".replace(",", "\u2009").replace("-", "\u2212")
    if abs(value) >= 10**5 or abs(value) < 10**-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa} × 10{_superscript(int(exponent))}".replace("-", "\u2212")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace(",", "\u2009").replace("-", "\u2212")


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def duration(seconds: float | None) -> str:
    """Write a wall time: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def shares(
    values: dict[str, float], texts: dict[str, str] | None = None, colors: Mapping[str, int] | None = None
) -> list[Share]:
    """Turn positive values into parts of a bar; colours are places in `figures.SERIES`."""
    total = sum(values.values())
    if total <= 0:
        return []
    texts = texts or {name: number(value) for name, value in values.items()}
    return [Share(name, texts[name], 100 * value / total, (colors or {}).get(name)) for name, value in values.items()]
