"""Velocity autocorrelation and the vibrational density of states that is its spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.errors import DataError

Array = NDArray[np.float64]


class Vdos(NamedTuple):
    """Vibrational density of states.

    Attributes
    ----------
    frequency
        (bins,) THz.
    total
        (bins,) states for each atom and THz: the integral is 3.
    species
        For each element, (bins,); weighted by their share of the atoms, they add up to `total`.
    time
        (lags,) ps.
    correlation
        (lags,) velocity autocorrelation, weighted by mass, 1 at zero.
    """

    frequency: Array
    total: Array
    species: dict[str, Array]
    time: Array
    correlation: Array

    @property
    def highest(self) -> float:
        """Highest frequency in THz that the frames resolve; faster vibrations appear below it."""
        return float(self.frequency[-1])


def vdos(
    velocities: Array,
    masses: Array,
    symbols: Sequence[str],
    interval: float,
    species: Sequence[str] | None = None,
    max_lag: float = 0.5,
) -> Vdos:
    """Spectrum of the mass-weighted velocity autocorrelation, averaged over atoms and over all time origins.

    ``D(ν) ∝ ∫ w(t) Σ m <v(0)·v(t)> cos(2πνt) dt`` with a Hann window w that falls to zero at the longest time
    difference T, so that a line of the spectrum is about 1/T wide. Each element is normalised to 3 states an atom.

    Parameters
    ----------
    velocities
        (frames, n_atoms, 3) in any unit, evenly spaced in time. The drift of their centre of mass is taken out.
    masses
        (n_atoms,) in any unit.
    symbols
        Element of each atom.
    interval
        ps between frames.
    species
        Elements; if None, all.
    max_lag
        Part of the time that is the longest time difference.

    Raises
    ------
    DataError
        If there are fewer than four frames, an element is absent, or nothing moves.

    References
    ----------
    Dickey and Paskin, Phys. Rev. 188, 1407 (1969).
    """
    if len(velocities) < 4:
        raise DataError(
            f"vdos needs at least 4 frames, found {len(velocities)}: write frames more often (dump.every) or run longer"
        )
    chosen = list(dict.fromkeys(symbols)) if species is None else list(dict.fromkeys(species))
    names = np.array(symbols)
    if absent := [element for element in chosen if element not in symbols]:
        raise DataError(f"vdos: no {absent[0]} in the frames, which hold {', '.join(dict.fromkeys(symbols))}")
    still = velocities - np.tensordot(velocities, masses / masses.sum(), axes=(1, 0))[:, None, :]
    lags = max(3, int(max_lag * len(velocities)))
    parts = {e: _autocorrelation(still[:, names == e], masses[names == e], lags) for e in chosen}
    whole = np.sum([*parts.values()], axis=0)
    if not whole[0] > 0:
        raise DataError("vdos: nothing moves in the frames: give velocities")
    time = np.arange(lags, dtype=np.float64) * interval
    states = {element: _spectrum(values, interval) for element, values in parts.items()}
    frequency: Array = np.fft.rfftfreq(2 * lags, d=interval).astype(np.float64)
    counts = {element: int((names == element).sum()) for element in chosen}
    total = np.sum([counts[e] * states[e] for e in chosen], axis=0) / sum(counts.values())
    return Vdos(frequency, total, states, time, whole / whole[0])


def _autocorrelation(velocities: Array, masses: Array, lags: int) -> Array:
    """Sum over atoms of m <v(0)·v(t)>, (lags,); atom by atom, so that little more than the frames is in memory."""
    n = len(velocities)
    total = np.zeros(lags)
    for atom, mass in enumerate(masses):
        spectrum = np.fft.rfft(velocities[:, atom], n=2 * n, axis=0)
        total += mass * np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:lags].sum(axis=-1)
    result: Array = total / (n - np.arange(lags))
    return result


def _spectrum(correlation: Array, interval: float) -> Array:
    """Cosine transform at ``rfftfreq(2 lags)``, (lags + 1,), normalised to 3; noise below zero is cut off."""
    lags = len(correlation)
    windowed = correlation * 0.5 * (1.0 + np.cos(np.pi * np.arange(lags) / lags))
    even = np.concatenate([windowed, [0.0], windowed[:0:-1]])
    states = np.maximum(np.fft.rfft(even).real, 0.0)
    width = 1.0 / (2 * lags * interval)
    area = (states.sum() - 0.5 * (states[0] + states[-1])) * width
    result: Array = states * (3.0 / area) if area > 0 else states
    return result
