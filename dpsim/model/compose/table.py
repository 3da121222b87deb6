"""Tables of pair energies: reading, extension to the cutoff, and the spline through them (spec fittings.md §4).

A table has one row a distance: the distance in Å and the energies in eV of the pairs of types 00, 01, …, 0n, 11, ….
P distances, C pairs of types. No torch here.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dpsim.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

MOST_BYTES = 50_000_000
"""A larger file is no table of pair energies."""
MOST_NUMBERS = 2_000_000
"""Numbers of a table with its extension to the cutoff."""
UNEVEN = 0.01
"""Fraction of a step by which a distance may differ from an even grid."""


def n_pairs(n_types: int) -> int:
    """Number of unordered pairs of types."""
    return n_types * (n_types + 1) // 2


def pair_of_types(n_types: int) -> npt.NDArray[np.int64]:
    """Column ``(n_types, n_types)`` of each pair of types, in the order of a table's columns."""
    index = np.zeros((n_types, n_types), dtype=np.int64)
    upper = np.triu_indices(n_types)
    index[upper] = np.arange(n_pairs(n_types))
    return np.maximum(index, index.T)


def read_rows(path: str | Path, n_types: int) -> FloatArray:
    """Table of a text file as it stands there: ``(P, 1 + C)``.

    Parameters
    ----------
    n_types
        Number of types, for which the table must have all pairs.

    Raises
    ------
    ConfigError
        If the file is missing or no table, or has another number of columns.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such table of pair energies")
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes, expected a table of at most {MOST_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which is refused below
            rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no table of pair energies ({str(error).splitlines()[0]})") from None
    if not rows.size:
        raise ConfigError(f"{path} is empty, expected rows of a distance in Å and the energies of the pairs in eV")
    if rows.shape[1:] != (1 + n_pairs(n_types),):
        raise ConfigError(
            f"{path} has {rows.shape[1]} columns, expected {1 + n_pairs(n_types)}: the distance and the energies of "
            f"the {n_pairs(n_types)} pairs of {n_types} types"
        )
    try:
        check_table(rows)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return rows


def read_table(path: str | Path, rcut: float, n_types: int) -> FloatArray:
    """Table of a text file, extended to the cutoff `rcut` (Å).

    Raises
    ------
    ConfigError
        As `read_rows`, or if the step is too small for the cutoff.
    """
    rows = read_rows(path, n_types)
    try:
        return extended(rows, rcut)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_table(rows: FloatArray) -> None:
    """Refuse what no spline goes through.

    Raises
    ------
    ValueError
        If there are fewer than two rows, numbers are not finite, or the distances are no even grid.
    """
    if len(rows) < 2:
        raise ValueError(f"the table has {len(rows)} rows, expected at least two distances")
    if not np.all(np.isfinite(rows)):
        raise ValueError(f"row {int(np.argmin(np.isfinite(rows).all(axis=1))) + 1} has a number that is not finite")
    r, step = rows[:, 0], rows[1, 0] - rows[0, 0]
    if step <= 0 or r[0] < 0:
        raise ValueError(f"the distances begin with {r[0]:g} and {r[1]:g} Å, expected positive ones that grow")
    uneven = np.abs(r - r[0] - step * np.arange(len(r))) > UNEVEN * step
    if uneven.any():
        k = int(uneven.argmax())
        raise ValueError(
            f"row {k + 1} is at {r[k]:g} Å, expected {r[0] + k * step:g} Å: the distances must be evenly spaced"
        )


def extended(rows: FloatArray, rcut: float) -> FloatArray:
    """Rows ``(P', 1 + C)`` that reach the cutoff: zeros after a last row of zeros, else a cubic down to zero.

    The slope at which the cubic begins is the difference of the last two rows, as the definition has it, not their
    difference quotient.

    Raises
    ------
    ValueError
        If the step is too small for the cutoff.
    """
    r, last, step = rows[:, 0], rows[-1, 1:], rows[1, 0] - rows[0, 0]
    if rcut <= r[-1]:
        return rows
    n = math.ceil(rcut / step - r[0] / step) - (len(rows) - 1)
    if (len(rows) + n) * rows.shape[1] > MOST_NUMBERS:
        raise ValueError(
            f"at steps of {step:g} Å the table has {len(rows) + n} rows up to the cutoff ({rcut:g} Å), expected at "
            f"most {MOST_NUMBERS // rows.shape[1]}: choose a larger step"
        )
    if n < 1:
        return rows
    more = np.zeros((n, rows.shape[1]))
    more[:, 0] = np.linspace(r[-1] + step, r[-1] + step * n, n)
    if last.any():
        ends_before = more[-1, 0] / step - r[-1] / step >= 2
        end = more[-2 if ends_before else -1, 0]
        more[:, 1:] = _down_to_zero(more[:, 0], r[-1], end, last, last - rows[-2, 1:])
        more = more[:-1] if ends_before else more
    return np.concatenate([rows, more])


def _down_to_zero(x: FloatArray, start: float, end: float, value: FloatArray, slope: FloatArray) -> FloatArray:
    """Cubic ``(len(x), C)`` with `value` and `slope` (C,) at the start, and neither at the end."""
    width = end - start
    t = ((x - start) / width)[:, None]
    return (1 - t) ** 2 * (value * (1 + 2 * t) + slope * width * t)


def spline(rows: FloatArray) -> FloatArray:
    """Cubic spline through a table, level at both ends: coefficients ``(C, P − 1, 4)``.

    Between rows l and l + 1 the energy is ``((a₀t + a₁)t + a₂)t + a₃`` with ``t = (r − r_0)/step − l``.
    """
    v = rows[:, 1:]
    d = _slopes(rows[:, 0], v) * (rows[1, 0] - rows[0, 0])
    low, high = v[:-1], v[1:]
    parts = [2 * low - 2 * high + d[:-1] + d[1:], -3 * low + 3 * high - 2 * d[:-1] - d[1:], d[:-1], low]
    return np.ascontiguousarray(np.stack(parts, axis=-1).transpose(1, 0, 2))


def _slopes(x: FloatArray, v: FloatArray) -> FloatArray:
    """Slopes ``(P, C)`` at which a cubic spline with level ends has continuous second derivatives."""
    slopes = np.zeros_like(v)
    inverse = 1 / np.diff(x)
    rise = 3 * np.diff(v, axis=0) * (inverse**2)[:, None]
    right, diagonal = rise[:-1] + rise[1:], 2 * (inverse[:-1] + inverse[1:])
    # tridiagonal system, solved by elimination downwards and substitution upwards
    for k in range(1, len(diagonal)):
        factor = inverse[k] / diagonal[k - 1]
        diagonal[k] -= factor * inverse[k]
        right[k] -= factor * right[k - 1]
    for k in range(len(diagonal) - 1, -1, -1):
        slopes[k + 1] = (right[k] - inverse[k + 1] * slopes[k + 2]) / diagonal[k]
    return slopes
