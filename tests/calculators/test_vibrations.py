"""Vibrational density of states against oscillators whose frequencies are known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from dpsim.calculators.md.analysis import mass_density
from dpsim.calculators.md.vibrations import vdos
from dpsim.errors import DataError

MASSES = np.array([1.008] * 6 + [15.999] * 6)
SYMBOLS = ["H"] * 6 + ["O"] * 6


def oscillators(frames: int, interval: float, drift: float = 0.0) -> np.ndarray:
    """Velocities of H at 100 THz and O at 20 THz, each atom with a phase and a direction of its own."""
    rng = np.random.default_rng(3)
    time = np.arange(frames)[:, None] * interval
    frequency = np.where(np.array(SYMBOLS) == "H", 100.0, 20.0)
    speed = np.cos(2 * np.pi * frequency * time + rng.uniform(0, 2 * np.pi, 12)) / np.sqrt(MASSES)
    directions = rng.normal(size=(12, 3))
    return speed[:, :, None] * (directions / np.linalg.norm(directions, axis=1)[:, None])[None] + drift


def area(frequency: np.ndarray, states: np.ndarray) -> float:
    return float(np.trapezoid(states, frequency))


def test_peaks_are_at_the_frequencies_of_the_oscillators() -> None:
    found = vdos(oscillators(2000, 0.001), MASSES, SYMBOLS, 0.001)
    width = 1.0 / (found.time[-1] + found.time[1])
    assert found.highest == pytest.approx(500.0)
    for element, frequency in (("H", 100.0), ("O", 20.0)):
        states = found.species[element]
        assert found.frequency[np.argmax(states)] == pytest.approx(frequency, abs=width)
        near = np.abs(found.frequency - frequency) < 3 * width
        assert states[near].sum() > 0.95 * states.sum()
        assert area(found.frequency, states) == pytest.approx(3.0, rel=1e-9)
    assert area(found.frequency, found.total) == pytest.approx(3.0, rel=1e-9)
    np.testing.assert_allclose(found.total, 0.5 * (found.species["H"] + found.species["O"]))


def test_correlation_is_that_of_the_plain_double_loop() -> None:
    rng = np.random.default_rng(0)
    velocities = rng.normal(size=(20, 12, 3))
    found = vdos(velocities, MASSES, SYMBOLS, 0.5)
    still = velocities - np.einsum("fai,a->fi", velocities, MASSES / MASSES.sum())[:, None]
    plain = np.array(
        [
            np.mean([np.einsum("ai,ai,a->", still[t], still[t + lag], MASSES) for t in range(20 - lag)])
            for lag in range(10)
        ]
    )
    np.testing.assert_allclose(found.correlation, plain / plain[0], atol=1e-12)
    np.testing.assert_allclose(found.time, 0.5 * np.arange(10))


def test_a_moving_box_and_the_unit_of_velocities_change_nothing() -> None:
    plain = vdos(oscillators(400, 0.002), MASSES, SYMBOLS, 0.002)
    moving = vdos(7.0 * oscillators(400, 0.002, drift=3.0), MASSES, SYMBOLS, 0.002)
    np.testing.assert_allclose(moving.total, plain.total, atol=1e-9)


def test_only_the_elements_that_are_asked_for() -> None:
    found = vdos(oscillators(400, 0.002), MASSES, SYMBOLS, 0.002, ["O"])
    assert list(found.species) == ["O"]
    np.testing.assert_allclose(found.total, found.species["O"], rtol=1e-12)


def test_what_vdos_refuses() -> None:
    with pytest.raises(DataError, match="at least 4 frames, found 3"):
        vdos(oscillators(3, 0.001), MASSES, SYMBOLS, 0.001)
    with pytest.raises(DataError, match="no Xe in the frames, which hold H, O"):
        vdos(oscillators(9, 0.001), MASSES, SYMBOLS, 0.001, ["Xe"])
    with pytest.raises(DataError, match="nothing moves"):
        vdos(np.zeros((9, 12, 3)), MASSES, SYMBOLS, 0.001)


def test_density_is_that_of_water() -> None:
    atoms = Atoms("OHH", cell=[3.1042, 3.1042, 3.1042], pbc=True)
    assert float(mass_density(atoms.get_masses(), atoms.get_volume())) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(mass_density(np.array([6.02214086]), np.array([10.0, 5.0])), [1.0, 2.0], rtol=1e-7)
