"""Forces and energies that are far from the rest of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_tools.clean_config import Outliers

FloatArray = npt.NDArray[np.float64]
_ENOUGH = 10
"""Frames from which a spread is judged."""


class Far(NamedTuple):
    """What is far from the rest, the farthest first."""

    rows: list[int]
    message: str
    """About the first."""


def _bounds(values: FloatArray, outliers: Outliers, least: float) -> tuple[float, float, float]:
    """Return below and above what values are far, and their median; a spread below `least` counts as that."""
    median = float(np.median(values))
    if outliers.method == "mad":
        spread = outliers.width * max(1.4826 * float(np.median(np.abs(values - median))), least)
        return median - spread, median + spread, median
    low, high = (float(one) for one in np.quantile(values, (0.25, 0.75)))
    spread = outliers.width * max(high - low, least)
    return low - spread, high + spread, median


def far_forces(forces: Sequence[float], force_max: float | None, outliers: Outliers) -> Far:
    """Find the largest forces (eV/Å), judged on a logarithmic scale, for they span orders of magnitude."""
    limit, reason = force_max, "given as force_max"
    if limit is None:
        moving = np.log([force for force in forces if force > 1e-8])
        if len(moving) < _ENOUGH:
            return Far([], "")
        _, high, median = _bounds(moving, outliers, 0.1)
        limit = float(np.exp(high))
        reason = f"from the median {np.exp(median):.3g} eV/Å and the spread of the data"
    rows = sorted((row for row, force in enumerate(forces) if force > limit), key=lambda row: -forces[row])
    if not rows:
        return Far([], "")
    return Far(rows, f"a force is {forces[rows[0]]:.4g} eV/Å, expected at most {limit:.4g} eV/Å ({reason})")


def far_energies(energies: Sequence[float], counts: Sequence[FloatArray], outliers: Outliers) -> Far:
    """Find energies (eV) an atom that are far from a fit of one energy for each element; `counts` are atoms of each."""
    if len(energies) < _ENOUGH:
        return Far([], "")
    table, values = np.array(counts), np.array(energies)
    atoms = table.sum(axis=1)
    weights = np.ones(len(values))
    for _ in range(20):  # least absolute deviations by reweighting, so that outliers do not steer the fit
        scale = (weights / atoms)[:, None]
        fitted, *_ = np.linalg.lstsq(table * scale, values * scale[:, 0], rcond=None)
        residual = (values - table @ fitted) / atoms
        weights = 1 / np.sqrt(np.maximum(np.abs(residual), 1e-6))
    low, high, median = _bounds(residual, outliers, 0.1 / outliers.width)
    beyond = np.maximum(low - residual, residual - high)
    rows = [int(row) for row in np.argsort(-np.abs(residual - median), kind="stable") if beyond[row] > 0]
    if not rows:
        return Far([], "")
    return Far(
        rows,
        f"the energy is {residual[rows[0]] - median:+.3f} eV an atom away from what its composition suggests, expected "
        f"between {low - median:+.3f} and {high - median:+.3f} eV",
    )
