"""What a trajectory says: radial distribution functions, displacements, energy drift, averages with error bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
Pair = tuple[str, str]

DEFAULT_R_MAX = 6.0
"""Å; the usual cutoff of a model, and beyond the second shell of most liquids."""

_G_CM3_PER_AMU_A3 = 1.66053904
"""g/cm³ per amu/Å³ (CODATA 2014, as `ase.units`)."""


class Rdf(NamedTuple):
    """Radial distribution functions.

    Attributes
    ----------
    r
        (bins,) Å, middle of each bin.
    g
        For each pair of elements, (bins,) without unit, 1 for an ideal gas.
    frames
        Number of frames averaged.
    """

    r: Array
    g: dict[Pair, Array]
    frames: int

    @property
    def width(self) -> float:
        """Width of a bin in Å."""
        return float(self.r[1] - self.r[0])


def smallest_height(cell: Array) -> float:
    """Smallest distance between opposite faces of a cell in Å; a sphere of half of it meets no image of itself.

    Parameters
    ----------
    cell
        (3, 3) Å, rows are vectors.
    """
    return float(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0).max())


def rdf(
    frames: Iterable[Atoms],
    pairs: Sequence[Pair] | None = None,
    r_max: float | None = None,
    bins: int = 150,
    *,
    images: bool = False,
) -> Rdf:
    """Average g(r) over frames, each with the density of its own cell.

    ``g_AB(r) = V / (N_A N_B) · n_AB(r) / (4/3 π ((r + dr/2)³ - (r - dr/2)³))`` with ``n_AB`` the number of ordered
    pairs in the bin; for A = B it therefore tends to 1 - 1/N_A in a fluid, as LAMMPS's own does.

    Parameters
    ----------
    frames
        Periodic structures; positions may lie outside the cell.
    pairs
        Pairs of elements; if None, all that occur in the first frame.
    r_max
        Å; if None, 6 Å or half the smallest height of the first cell, whichever is less.
    bins
        Number of bins from 0 to `r_max`.
    images
        Whether `r_max` may pass half the smallest height: periodic images are then counted as atoms of their own.

    Raises
    ------
    DataError
        If there is no frame, a frame is not periodic, an element of a pair is absent, or `r_max` is too long.
    """
    total: Rdf | None = None
    for number, atoms in enumerate(frames):
        _check_periodic(atoms, number)
        if total is None:
            chosen, reach = rdf_settings(atoms, pairs, r_max, images=images)
            edges = np.linspace(0.0, reach, bins + 1)
            total = Rdf(0.5 * (edges[1:] + edges[:-1]), {pair: np.zeros(bins) for pair in chosen}, 0)
        for pair, values in _frame_rdf(atoms, tuple(total.g), edges).items():
            total.g[pair][:] += values
        total = total._replace(frames=total.frames + 1)
    if total is None:
        raise DataError("g(r) needs at least one frame, found none: write frames more often (dump.every) or run longer")
    return Rdf(total.r, {pair: values / total.frames for pair, values in total.g.items()}, total.frames)


def _check_periodic(atoms: Atoms, number: int) -> None:
    if not all(atoms.pbc) or abs(np.linalg.det(np.array(atoms.cell))) < 1e-6:
        raise DataError(f"frame {number} has pbc {atoms.pbc.tolist()}: g(r) needs a cell periodic in x, y and z")


def rdf_settings(
    atoms: Atoms, pairs: Sequence[Pair] | None, r_max: float | None, *, images: bool
) -> tuple[tuple[Pair, ...], float]:
    """Complete and check the settings of `rdf` against the first frame, before anything is computed.

    A barostat may shrink the cell later; images are then counted too, which is no error of g(r).

    Returns
    -------
    tuple
        The pairs, and r_max in Å.

    Raises
    ------
    DataError
        As in `rdf`.
    """
    _check_periodic(atoms, 0)
    half = 0.5 * smallest_height(np.array(atoms.cell))
    if r_max is not None and r_max > half + 1e-9 and not images:
        raise DataError(
            f"rdf: r_max {r_max:g} Å passes half the smallest height of the cell ({half:.3f} Å): "
            "choose a smaller r_max, a larger cell, or images: true"
        )
    return _pairs(atoms, pairs), min(DEFAULT_R_MAX, half) if r_max is None else r_max


def _pairs(atoms: Atoms, pairs: Sequence[Pair] | None) -> tuple[Pair, ...]:
    present = list(dict.fromkeys(atoms.get_chemical_symbols()))
    if pairs is None:
        return tuple(combinations_with_replacement(sorted(present), 2))
    for pair in pairs:
        if missing := [element for element in pair if element not in present]:
            raise DataError(f"pair {'-'.join(pair)}: no {missing[0]} in the frames, which hold {', '.join(present)}")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _frame_rdf(atoms: Atoms, pairs: Sequence[Pair], edges: Array) -> dict[Pair, Array]:
    from vesin import NeighborList

    neighbors = NeighborList(cutoff=float(edges[-1]), full_list=True)
    wrapped = atoms.get_scaled_positions(wrap=True) @ np.array(atoms.cell)
    i, j, distances = neighbors.compute(points=wrapped, box=np.array(atoms.cell), periodic=True, quantities="ijd")
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    symbols = np.array(atoms.get_chemical_symbols())
    result = {}
    for a, b in pairs:
        n_a, n_b = int((symbols == a).sum()), int((symbols == b).sum())
        counts, _ = np.histogram(distances[(symbols[i] == a) & (symbols[j] == b)], bins=edges)
        result[a, b] = counts * atoms.get_volume() / (max(n_a * n_b, 1) * shells)
    return result


class Peak(NamedTuple):
    """Position in Å and height of a maximum of g(r)."""

    r: float
    g: float


def first_peak(r: Array, g: Array) -> Peak | None:
    """Find the first maximum that stands out: the top of the first stretch where g exceeds 1.

    The stretch must hold a quarter of the highest value, so noise at its foot is passed over; a parabola through
    the three highest bins gives the position between bins.
    """
    above = np.concatenate([[False], g > 1.0, [False]])
    starts, ends = np.flatnonzero(~above[:-1] & above[1:]), np.flatnonzero(above[:-1] & ~above[1:])
    for start, end in zip(starts, ends, strict=True):
        top = start + int(np.argmax(g[start:end]))
        if g[top] >= 0.25 * g.max():
            return _parabola(r, g, int(top))
    return None


def _parabola(r: Array, g: Array, top: int) -> Peak:
    if not 0 < top < len(g) - 1:
        return Peak(float(r[top]), float(g[top]))
    left, middle, right = (float(value) for value in g[top - 1 : top + 2])
    curvature = left - 2.0 * middle + right
    if curvature >= 0.0:
        return Peak(float(r[top]), middle)
    shift = 0.5 * (left - right) / curvature
    return Peak(float(r[top]) + shift * float(r[1] - r[0]), middle - 0.25 * (left - right) * shift)


@dataclass(frozen=True)
class RdfComparison:
    """Two g(r) of one pair on the same bins.

    Attributes
    ----------
    overlap
        ``1 - Σ|g₁ - g₂| r² / Σ(g₁ + g₂) r²``: 1 where they are equal, 0 where they share no distance.
    first_peak, reference_peak
        First maximum of each.
    """

    overlap: float
    first_peak: Peak | None
    reference_peak: Peak | None


def compare_rdf(r: Array, g: Array, reference: Array) -> RdfComparison:
    """Compare two radial distribution functions given on the same `r`.

    Raises
    ------
    DataError
        If they are not on the same bins.
    """
    if not len(r) == len(g) == len(reference):
        raise DataError(f"two g(r) can only be compared on the same bins, found {len(g)} and {len(reference)}")
    total = float(((g + reference) * r**2).sum())
    overlap = 1.0 - float((np.abs(g - reference) * r**2).sum()) / total if total > 0 else 1.0
    return RdfComparison(overlap, first_peak(r, g), first_peak(r, reference))


class Msd(NamedTuple):
    """Mean squared displacement.

    Attributes
    ----------
    time
        (lags,) ps.
    values
        For each element, (lags,) Å².
    diffusion
        For each element, coefficient and its standard error over groups of atoms in Å²/ps (1 Å²/ps = 1e-4 cm²/s).
    block_errors
        For each element, standard error in Å²/ps over pieces of the trajectory; not a number where it is too short.
    """

    time: Array
    values: dict[str, Array]
    diffusion: dict[str, tuple[float, float]]
    block_errors: dict[str, float] = {}


def msd(
    positions: Array,
    symbols: Sequence[str],
    interval: float,
    species: Sequence[str] | None = None,
    fit: tuple[float, float] = (0.2, 0.5),
    blocks: int = 5,
    masses: Array | None = None,
) -> Msd:
    """Mean squared displacement, averaged over atoms and over all time origins.

    Parameters
    ----------
    positions
        (frames, n_atoms, 3) Å, unwrapped, evenly spaced in time. The drift of their centre of mass is taken out.
    symbols
        Element of each atom.
    interval
        ps between frames.
    species
        Elements; if None, all.
    fit
        Part of the lag times that a straight line is fitted to; its slope is six times the diffusion coefficient, and
        the spread of the slopes of four groups of atoms gives the standard error.
    blocks
        Pieces that the trajectory is cut into for the block error. Each is evaluated like the whole, so its time
        differences are shorter: where a piece does not reach diffusion, the error says so by being large.
    masses
        (n_atoms,) amu; if None, the standard ones of the elements.

    Raises
    ------
    DataError
        If there are fewer than four frames or an element is absent.

    References
    ----------
    Calandrini et al., Collection SFN 12, 201 (2011): the Fourier form of the average over origins.
    """
    if len(positions) < 4:
        raise DataError(
            f"msd needs at least 4 frames, found {len(positions)}: write frames more often (dump.every) or run longer"
        )
    chosen = list(dict.fromkeys(symbols)) if species is None else list(species)
    weights = _standard_masses(symbols) if masses is None else masses
    centred = positions - np.average(positions, axis=1, weights=weights)[:, None]
    time: Array = np.arange(len(positions), dtype=np.float64) * np.float64(interval)
    values, diffusion, errors = {}, {}, {}
    for element in chosen:
        members = [index for index, symbol in enumerate(symbols) if symbol == element]
        if not members:
            raise DataError(f"msd: no {element} in the frames, which hold {', '.join(dict.fromkeys(symbols))}")
        each = _squared_displacements(centred[:, members])
        values[element] = each.mean(axis=1)
        diffusion[element] = _diffusion(time, each, fit)
        errors[element] = _block_error(centred[:, members], interval, fit, blocks)
    return Msd(time, values, diffusion, errors)


def _standard_masses(symbols: Sequence[str]) -> Array:
    from ase.data import atomic_masses, atomic_numbers

    found: Array = atomic_masses[[atomic_numbers[symbol] for symbol in symbols]]
    return found


def _block_error(positions: Array, interval: float, fit: tuple[float, float], blocks: int) -> float:
    length = len(positions) // blocks
    if length < 4:
        return float("nan")
    time = np.arange(length, dtype=np.float64) * interval
    pieces = [positions[k * length : (k + 1) * length] for k in range(blocks)]
    slopes = [_slope(time, _squared_displacements(piece).mean(axis=1), fit) for piece in pieces]
    return float(np.std(slopes, ddof=1) / np.sqrt(blocks))


def _squared_displacements(positions: Array) -> Array:
    """Return (lags, n_atoms) in Å² in O(n log n) operations."""
    n = len(positions)
    spectrum = np.fft.rfft(positions, n=2 * n, axis=0)
    products = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:n].sum(axis=-1)
    squares = (positions**2).sum(axis=-1)
    # Sum of |r(t)|² + |r(t+m)|² over the origins t of each lag m.
    tail = 2.0 * squares.sum(axis=0) - np.cumsum(
        np.concatenate([np.zeros_like(squares[:1]), (squares + squares[::-1])[:-1]]), axis=0
    )
    return np.maximum((tail - 2.0 * products) / (n - np.arange(n))[:, None], 0.0)


def _diffusion(time: Array, each: Array, fit: tuple[float, float]) -> tuple[float, float]:
    groups = [_slope(time, each[:, start::4].mean(axis=1), fit) for start in range(min(4, each.shape[1]))]
    error = float(np.std(groups, ddof=1) / np.sqrt(len(groups))) if len(groups) > 1 else float("nan")
    return _slope(time, each.mean(axis=1), fit), error


def _slope(time: Array, values: Array, fit: tuple[float, float]) -> float:
    """Coefficient of diffusion from a straight line through part of the displacements."""
    first = int(fit[0] * (len(time) - 1))
    last = max(first + 2, int(np.ceil(fit[1] * (len(time) - 1))) + 1)
    return float(np.polyfit(time[first:last], values[first:last], 1)[0]) / 6.0


class Drift(NamedTuple):
    """How well a run conserves its total energy.

    Attributes
    ----------
    slope, error
        meV/atom/ps of the straight line through the total energy, with its standard error.
    fluctuation
        Root mean square distance from the line in meV/atom.
    intercept
        eV, total energy of the line at time zero.
    """

    slope: float
    error: float
    fluctuation: float
    intercept: float

    @property
    def slope_per_ns(self) -> float:
        """meV/atom/ns."""
        return 1000.0 * self.slope

    @property
    def error_per_ns(self) -> float:
        """meV/atom/ns."""
        return 1000.0 * self.error


def energy_drift(time: Array, total_energy: Array, n_atoms: int) -> Drift:
    """Fit a straight line to the total energy of an NVE run.

    Parameters
    ----------
    time
        (n,) ps.
    total_energy
        (n,) eV of the whole system.
    n_atoms
        Number of atoms.

    Raises
    ------
    DataError
        If there are fewer than three points.
    """
    if len(time) < 3:
        raise DataError(
            f"an energy drift needs at least 3 points, found {len(time)}: record them more often (thermo.every)"
        )
    middle = time.mean()
    slope, level = np.polyfit(time - middle, total_energy, 1)
    residual = total_energy - (slope * (time - middle) + level)
    variance = float((residual**2).sum()) / (len(time) - 2)
    error = np.sqrt(variance / float(((time - middle) ** 2).sum()))
    scale = 1000.0 / n_atoms
    return Drift(
        float(slope * scale),
        float(error * scale),
        float(np.sqrt((residual**2).mean()) * scale),
        float(level - slope * middle),
    )


class Average(NamedTuple):
    """Mean, standard deviation of the samples, and standard error of the mean."""

    mean: float
    std: float
    error: float


def block_average(values: Array) -> Average:
    """Average correlated samples: the error is the largest that any block length gives.

    Blocks are doubled until fewer than eight are left; the error grows with the length until blocks are longer
    than the correlation time.

    References
    ----------
    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989).
    """
    if not len(values):
        raise DataError("an average needs at least one value, found none")
    blocks, errors = np.asarray(values, dtype=float), [0.0]
    mean, std = float(blocks.mean()), float(blocks.std())
    while len(blocks) >= 8 or (len(blocks) > 1 and len(errors) == 1):
        errors.append(float(blocks.std(ddof=1) / np.sqrt(len(blocks))))
        even = len(blocks) // 2 * 2
        blocks = 0.5 * (blocks[:even:2] + blocks[1:even:2])
    return Average(mean, std, max(errors))


def mass_density(masses: Array, volume: float | Array) -> Array:
    """Density in g/cm³ of atoms of these masses (amu) in a volume (Å³), or in each of several."""
    result: Array = masses.sum() * _G_CM3_PER_AMU_A3 / np.asarray(volume, dtype=np.float64)
    return result
