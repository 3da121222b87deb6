"""Curves drawn with characters: dots of Braille in colour on a terminal, a letter for each curve elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

_COLORS: Final = ("cyan", "yellow", "green", "magenta", "red", "blue", "white")
_LETTERS: Final = "*+ox#@%"
_BITS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of the dots of a Braille character, by line and column."""
HEIGHT: Final = 12
_MARGIN: Final = 11
_WIDEST: Final = 90


@dataclass(frozen=True)
class Curves:
    """Curves over one axis."""

    title: str
    x_name: str
    x: Sequence[float]
    y: Mapping[str, Sequence[float]]
    """Values by the name of the curve; those that are no numbers are left out."""
    log: bool = False
    """Whether the vertical axis is logarithmic; what is not positive is left out."""
    joined: bool = True
    """Whether points that follow each other are joined."""
    same: bool = False
    """Whether all curves are of one kind and look alike, as the bands of a crystal."""


def braille() -> bool:
    """Return whether standard output is a terminal that shows Braille and colours."""
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def draw(curves: Curves, *, dots: bool | None = None, width: int | None = None, height: int = HEIGHT) -> str:
    """Return a picture of curves.

    Parameters
    ----------
    dots
        Braille and colours; by default where the terminal has them.
    width, height
        Columns in all, and lines of the field of curves.
    """
    dots = braille() if dots is None else dots
    columns = (width or min(_WIDEST, shutil.get_terminal_size((80, 24)).columns)) - _MARGIN
    scaled = {name: [_scaled(value, curves.log) for value in values] for name, values in curves.y.items()}
    known = [
        (x, y) for values in scaled.values() for x, y in zip(curves.x, values, strict=True) if math.isfinite(x + y)
    ]
    if not known:
        return f"{curves.title}: nothing to draw"
    low_x, high_x = _limits([x for x, _ in known])
    low_y, high_y = _limits([y for _, y in known])
    field = _Field(columns, height, dots)
    for number, values in enumerate(scaled.values()):
        last: tuple[int, int] | None = None
        for x, y in zip(curves.x, values, strict=True):
            if not math.isfinite(x + y):
                continue
            place = field.place((x - low_x) / (high_x - low_x), (y - low_y) / (high_y - low_y))
            field.line(last if curves.joined and last is not None else place, place, 0 if curves.same else number)
            last = place
    return "\n".join([_head(curves, dots), *_framed(field.lines(), curves, (low_x, high_x), (low_y, high_y))])


def _scaled(value: float, log: bool) -> float:
    if not log:
        return float(value)
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.0 if high > low else max(abs(low), 1.0) * 0.05
    return low - margin, high + margin


def _head(curves: Curves, dots: bool) -> str:
    if curves.same or (len(curves.y) == 1 and next(iter(curves.y)) in curves.title):
        return curves.title
    names = [
        click.style(name, fg=_COLORS[number % len(_COLORS)]) if dots else f"{_LETTERS[number % len(_LETTERS)]} {name}"
        for number, name in enumerate(curves.y)
    ]
    return f"{curves.title}:  {'   '.join(names)}"


def _framed(rows: list[str], curves: Curves, x: tuple[float, float], y: tuple[float, float]) -> list[str]:
    """Return the field with numbers at its axes."""
    last, shown = len(rows) - 1, {0, len(rows) // 2, len(rows) - 1}
    lines = []
    for number, row in enumerate(rows):
        value = y[1] - (y[1] - y[0]) * number / max(1, last)
        label = f"{10**value if curves.log else value:.4g}" if number in shown else ""
        lines.append(f"{label:>{_MARGIN - 2}} │{row}".rstrip())
    width = len(click.unstyle(rows[0]))
    left, right = f"{x[0]:.4g}", f"{x[1]:.4g}"
    name = curves.x_name.center(max(0, width - len(left) - len(right)))
    return [*lines, f"{'':>{_MARGIN - 2}} └{'─' * width}", f"{'':>{_MARGIN}}{left}{name}{right}"]


class _Field:
    """Characters in which curves are drawn; in Braille each has two columns and four lines of dots."""

    def __init__(self, columns: int, rows: int, dots: bool) -> None:
        self.columns, self.rows, self.dots = columns, rows, dots
        self.across, self.down = (2, 4) if dots else (1, 1)
        self.bits = [[0] * columns for _ in range(rows)]
        self.owner = [[-1] * columns for _ in range(rows)]

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Return the dot of a point whose coordinates go from 0 to 1."""
        return round(x * (self.columns * self.across - 1)), round((1 - y) * (self.rows * self.down - 1))

    def line(self, begin: tuple[int, int], end: tuple[int, int], number: int) -> None:
        """Set all dots from one to another."""
        steps = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]), 1)
        for step in range(steps + 1):
            across = round(begin[0] + (end[0] - begin[0]) * step / steps)
            down = round(begin[1] + (end[1] - begin[1]) * step / steps)
            row, column = down // self.down, across // self.across
            self.bits[row][column] |= _BITS[down % 4][across % 2] if self.dots else 1
            self.owner[row][column] = number

    def lines(self) -> list[str]:
        """Return the rows as text."""
        return ["".join(self._character(row, column) for column in range(self.columns)) for row in range(self.rows)]

    def _character(self, row: int, column: int) -> str:
        owner = self.owner[row][column]
        if owner < 0:
            return " "
        if not self.dots:
            return _LETTERS[owner % len(_LETTERS)]
        return click.style(chr(0x2800 + self.bits[row][column]), fg=_COLORS[owner % len(_COLORS)])
