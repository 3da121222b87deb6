"""Equations of motion in numpy: velocity Verlet with thermostats and barostats, in units of ASE.

One step is symmetric in time: half a step of the thermostat, of the barostat and of the forces, a step of the positions
and the cell, and the halves again in reverse. Random numbers depend on the seed and the step alone, and everything else
is in `State`, so a run that begins at a saved state does what the unbroken one did.

References
----------
Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996); Bussi, Donadio and Parrinello, J. Chem. Phys. 126,
014101 (2007); Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007); Berendsen et al., J. Chem. Phys. 81, 3684 (1984).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.md.deck import WATER_MODULUS
from dpsim.calculators.md.segments import Dynamics, NPTSegment, NVESegment
from dpsim.units import ASE_TIME_PER_PS, BOLTZMANN_EV, GPA_PER_EV_A3

Array = NDArray[np.float64]
CHAIN = 3
"""Length of Nosé-Hoover chains."""
BAR_PER_EV_A3 = 1e4 * GPA_PER_EV_A3
_C = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_YOSHIDA = (_C, 1.0 - 2.0 * _C, _C)


class Evaluated(NamedTuple):
    """Energy in eV, forces (n, 3) in eV/Å, and stress (3, 3) in eV/Å³ (tensile positive; NaN where there is none)."""

    energy: float
    forces: Array
    stress: Array


Evaluate = Callable[[Array, Array], Evaluated]
"""Positions (n, 3) and cell (3, 3) in Å to what the model says."""


@dataclass
class State:
    """Everything a step needs; velocities and rates in units of ASE.

    Attributes
    ----------
    chain, cell_chain
        (CHAIN,) rates of the thermostat's and the barostat's chains.
    rate
        (3, 3) symmetric rate of strain.
    now
        What the model says of positions and cell.
    """

    positions: Array
    velocities: Array
    cell: Array
    now: Evaluated
    chain: Array = field(default_factory=lambda: np.zeros(CHAIN))
    rate: Array = field(default_factory=lambda: np.zeros((3, 3)))
    cell_chain: Array = field(default_factory=lambda: np.zeros(CHAIN))

    def begin_segment(self) -> None:
        """Forget what thermostat and barostat of the segment before had gathered."""
        self.chain, self.rate, self.cell_chain = np.zeros(CHAIN), np.zeros((3, 3)), np.zeros(CHAIN)


class Integrator:
    """Steps of one segment.

    Parameters
    ----------
    segment
        The ensemble.
    begin, end
        First and last step, between which temperature and pressure go from one value to the other.
    masses
        (n,) amu.
    evaluate
        The model.
    seed
        Of all noise.
    """

    def __init__(self, segment: Dynamics, begin: int, end: int, masses: Array, evaluate: Evaluate, seed: int) -> None:
        self.segment, self.begin, self.end, self.evaluate, self.seed = segment, begin, end, evaluate, seed
        self.masses = masses[:, None]
        self.n = len(masses)
        self.dof = max(1, 3 * self.n - 3)
        self.dt = segment.step_length * ASE_TIME_PER_PS
        self._kt = 0.0

    def kinetic(self, state: State) -> float:
        """Kinetic energy in eV."""
        return 0.5 * float((self.masses * state.velocities**2).sum())

    def temperature(self, state: State) -> float:
        """K; the motion of the whole is not counted."""
        return 2.0 * self.kinetic(state) / (self.dof * BOLTZMANN_EV)

    def pressure(self, state: State) -> Array:
        """Pressure tensor (3, 3) in eV/Å³."""
        volume = abs(np.linalg.det(state.cell))
        moving: Array = (self.masses * state.velocities).T @ state.velocities / volume
        return moving - state.now.stress

    def step(self, state: State, number: int) -> None:
        """Take the step that ends at `number`."""
        part = (number - self.begin) / (self.end - self.begin)
        segment, half = self.segment, 0.5 * self.dt
        noise = np.random.default_rng([self.seed, number])
        if not isinstance(segment, NVESegment):
            first, last = segment.temperature
            self._kt = BOLTZMANN_EV * (first + part * (last - first))
        target, flexible = 0.0, isinstance(segment, NPTSegment) and segment.barostat == "nose-hoover"
        if isinstance(segment, NPTSegment):
            target = (segment.pressure[0] + part * (segment.pressure[1] - segment.pressure[0])) / BAR_PER_EV_A3
        self._thermostat(state, half, noise)
        if flexible:
            self._cell_chain(state, half)
            self._push_cell(state, target, half)
        self._kick(state, half)
        self._move(state)
        state.now = self.evaluate(state.positions, state.cell)
        self._kick(state, half)
        if flexible:
            self._push_cell(state, target, half)
            self._cell_chain(state, half)
        self._thermostat(state, half, noise)
        if isinstance(segment, NPTSegment) and segment.barostat == "berendsen":
            self._berendsen(state, segment, target)

    # ---- atoms and cell ---------------------------------------------------------------------------

    def _kick(self, state: State, time: float) -> None:
        if not state.rate.any():
            state.velocities += time * state.now.forces / self.masses
            return
        drag = state.rate + np.eye(3) * np.trace(state.rate) / (3 * self.n)
        slow = _exp(-0.5 * time * drag)
        state.velocities = (state.velocities @ slow + time * state.now.forces / self.masses) @ slow

    def _move(self, state: State) -> None:
        if not state.rate.any():
            state.positions = state.positions + self.dt * state.velocities
            return
        half = _exp(0.5 * self.dt * state.rate)
        state.positions = (state.positions @ half + self.dt * state.velocities) @ half
        state.cell = state.cell @ half @ half

    # ---- thermostats ------------------------------------------------------------------------------

    def _thermostat(self, state: State, time: float, noise: np.random.Generator) -> None:
        segment = self.segment
        if isinstance(segment, NVESegment):
            return
        damping = segment.damping * ASE_TIME_PER_PS
        if segment.thermostat == "nose-hoover":
            state.velocities *= _chain(state.chain, 2.0 * self.kinetic(state), self._kt, self.dof, damping, time)
        elif segment.thermostat == "langevin":
            kept = np.exp(-time / damping)
            kicks = noise.normal(size=(self.n, 3)) * np.sqrt((1.0 - kept**2) * self._kt / self.masses)
            state.velocities = kept * state.velocities + kicks
            state.velocities -= (self.masses * state.velocities).sum(axis=0) / self.masses.sum()
        else:
            state.velocities *= self._rescaling(state, np.exp(-time / damping), noise)

    def _rescaling(self, state: State, kept: float, noise: np.random.Generator) -> float:
        """Factor of stochastic rescaling (eq. A7 of Bussi 2007); `kept` is the part of the energy that stays."""
        kinetic = self.kinetic(state)
        share = 0.5 * self._kt / kinetic * (1.0 - kept)
        first, others = noise.normal(), 2.0 * noise.standard_gamma(0.5 * (self.dof - 1)) if self.dof > 1 else 0.0
        return float(np.sqrt(kept + share * (first**2 + others) + 2.0 * first * np.sqrt(kept * share)))

    # ---- barostats --------------------------------------------------------------------------------

    def _cell_mass(self, segment: NPTSegment) -> float:
        return (self.n + 1) * self._kt * (segment.pressure_damping * ASE_TIME_PER_PS) ** 2

    def _cell_chain(self, state: State, time: float) -> None:
        segment = self.segment
        assert isinstance(segment, NPTSegment)
        free = {"isotropic": 1, "anisotropic": 3, "triclinic": 6}[segment.coupling]
        twice = self._cell_mass(segment) * float((state.rate**2).sum())
        damping = segment.pressure_damping * ASE_TIME_PER_PS
        state.rate = state.rate * _chain(state.cell_chain, twice, self._kt, free, damping, time)

    def _push_cell(self, state: State, target: float, time: float) -> None:
        segment = self.segment
        assert isinstance(segment, NPTSegment)
        volume = abs(np.linalg.det(state.cell))
        push = volume * (self.pressure(state) - target * np.eye(3))
        push += np.eye(3) * 2.0 * self.kinetic(state) / (3 * self.n)
        state.rate = state.rate + time * _allowed(push, segment.coupling) / self._cell_mass(segment)

    def _berendsen(self, state: State, segment: NPTSegment, target: float) -> None:
        modulus = (segment.bulk_modulus or WATER_MODULUS) / BAR_PER_EV_A3
        excess = np.diag(_allowed(self.pressure(state) - target * np.eye(3), segment.coupling))
        growth = np.diag(np.cbrt(1.0 + segment.step_length / segment.pressure_damping * excess / modulus))
        state.cell, state.positions = state.cell @ growth, state.positions @ growth


def _allowed(tensor: Array, coupling: str) -> Array:
    """The part of a symmetric tensor that the cell follows."""
    if coupling == "isotropic":
        return np.eye(3) * np.trace(tensor) / 3.0
    return np.diag(np.diag(tensor)) if coupling == "anisotropic" else 0.5 * (tensor + tensor.T)


def _exp(symmetric: Array) -> Array:
    values, vectors = np.linalg.eigh(symmetric)
    result: Array = (vectors * np.exp(values)) @ vectors.T
    return result


def _chain(rates: Array, twice_kinetic: float, kt: float, dof: int, damping: float, time: float) -> float:
    """Move a Nosé-Hoover chain on and return the factor by which velocities change.

    Parameters
    ----------
    rates
        (CHAIN,) of the chain, changed in place.
    twice_kinetic
        Twice the kinetic energy of what it is coupled to, eV.
    kt, dof, damping, time
        eV; number of degrees of freedom; the rest in ASE's unit of time.
    """
    masses = np.full(CHAIN, kt * damping**2)
    masses[0] *= dof
    factor = 1.0

    def push(link: int) -> float:
        if link == 0:
            return float((twice_kinetic * factor**2 - dof * kt) / masses[0])
        return float((masses[link - 1] * rates[link - 1] ** 2 - kt) / masses[link])

    for weight in _YOSHIDA:
        part = weight * time
        rates[-1] += 0.5 * part * push(CHAIN - 1)
        for link in range(CHAIN - 2, -1, -1):
            slow = np.exp(-0.25 * part * rates[link + 1])
            rates[link] = (rates[link] * slow + 0.5 * part * push(link)) * slow
        factor *= float(np.exp(-part * rates[0]))
        for link in range(CHAIN - 1):
            slow = np.exp(-0.25 * part * rates[link + 1])
            rates[link] = (rates[link] * slow + 0.5 * part * push(link)) * slow
        rates[-1] += 0.5 * part * push(CHAIN - 1)
    return factor
