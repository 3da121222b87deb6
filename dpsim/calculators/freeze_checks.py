"""The checks made when a model is frozen: one set of structures through every door, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from dpsim.calculators.ase import DPCalculator
from dpsim.calculators.ase_frame import frame_of, spins_of
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.calculators.single_point import lammps_single_point
from dpsim.model.base import Model

# Relative to the largest force component (energies: to the energy). float32 sums rounding over layers;
# float64 leaves room for the order of summation.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}
FINITE_DIFFERENCE_TOLERANCE = 1e-6
_STEP = 1e-4


@dataclass(frozen=True)
class Check:
    """One comparison: the largest relative difference found, and what is allowed."""

    name: str
    value: float
    tolerance: float
    unit: str = "relative"
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is finite and within its tolerance."""
        return math.isfinite(self.value) and self.value <= self.tolerance


def check_structures(type_map: Sequence[str], seed: int = 0) -> list[Atoms]:
    """A cluster, a triclinic crystal-like cell and a cell smaller than most cutoffs, of the model's elements.

    Atoms have random spins, which only spin models look at.
    """
    rng, spins = np.random.default_rng(seed), np.random.default_rng((seed, 1))

    def lattice(n: int, spacing: float, pbc: bool, skew: float) -> Atoms:
        grid = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * spacing
        cell = np.eye(3) * n * spacing
        cell[1, 0], cell[2, 1] = skew, -0.5 * skew
        positions = grid @ np.linalg.inv(np.eye(3) * n * spacing) @ cell + rng.normal(0, 0.12, grid.shape)
        symbols = [type_map[t] for t in rng.integers(0, len(type_map), len(grid))]
        symbols[: len(type_map)] = list(type_map)[: len(grid)]
        return Atoms(symbols, positions, cell=cell, pbc=pbc, magmoms=spins.normal(size=(len(grid), 3)))

    return [lattice(2, 1.9, False, 0.0), lattice(3, 2.1, True, 0.7), lattice(2, 1.8, True, 0.0)]


def run_checks(
    model: Model, frozen: Path, device: str, lammps: bool, progress: Callable[[int, str], None]
) -> list[Check]:
    """Make all checks of a frozen model.

    Parameters
    ----------
    model
        The model that was frozen.
    frozen
        The package.
    lammps
        Whether LAMMPS takes part.
    """
    structures = check_structures(model.type_map)
    reference = Potential(ModuleEngine(model, device), "model")
    expected = [_evaluate(reference, atoms) for atoms in structures]
    potential = load(frozen)
    tolerance = TOLERANCE[model.precision]
    progress(0, "comparing the frozen model with PyTorch and ASE")
    checks = [
        _largest("frozen_vs_pytorch", [_evaluate(potential, a) for a in structures], expected, tolerance),
        _largest("ase_vs_pytorch", [_through_ase(potential, a) for a in structures], expected, tolerance),
    ]
    progress(1, "finite differences of forces and stress")
    checks += finite_differences(model, structures[1])
    if lammps:
        progress(2, "comparing with LAMMPS")
        spins = [None if model.spin is None else spins_of(atoms) for atoms in structures]
        found = [
            lammps_single_point(frozen, atoms, model.type_map, spins=spin)
            for atoms, spin in zip(structures, spins, strict=True)
        ]
        checks.append(_largest("lammps_vs_pytorch", found, expected, tolerance))
    return checks


def finite_differences(model: Model, atoms: Atoms) -> list[Check]:
    """Forces and virial in float64 against five-point differences of the energy along random directions."""
    double = model if model.precision == "float64" else model.with_precision("float64")
    potential = Potential(ModuleEngine(double, "cpu"), "model")
    prediction = _evaluate(potential, atoms)
    assert prediction.forces is not None
    assert prediction.virial is not None
    rng = np.random.default_rng(1)
    direction = rng.normal(size=atoms.positions.shape)
    direction /= np.linalg.norm(direction)
    strain = rng.normal(size=(3, 3))
    strain = (strain + strain.T) / np.linalg.norm(strain + strain.T)

    def moved(step: float) -> float:
        return _energy(potential, atoms, atoms.positions + step * direction, atoms.cell.array)

    def strained(step: float) -> float:
        deformation = np.eye(3) + step * strain
        return _energy(potential, atoms, atoms.positions @ deformation.T, atoms.cell.array @ deformation.T)

    along, straining = -(prediction.forces * direction).sum(), -(prediction.virial * strain).sum()
    scales = max(np.abs(prediction.forces).max(), 1e-3), max(np.abs(prediction.virial).max(), 1e-3)
    return [
        Check("forces_vs_finite_differences", abs(along - _slope(moved)) / scales[0], FINITE_DIFFERENCE_TOLERANCE),
        Check(
            "stress_vs_finite_differences", abs(straining - _slope(strained)) / scales[1], FINITE_DIFFERENCE_TOLERANCE
        ),
    ]


def _slope(function: Callable[[float], float]) -> float:
    h = _STEP
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def _energy(potential: Potential, atoms: Atoms, positions: np.ndarray, cell: np.ndarray) -> float:
    moved = atoms.copy()
    moved.set_cell(cell)
    moved.positions = positions
    energy = _evaluate(potential, moved).energy
    assert energy is not None
    return energy


def _evaluate(potential: Potential, atoms: Atoms) -> Prediction:
    return potential.evaluate(**frame_of(atoms, potential))


def _through_ase(potential: Potential, atoms: Atoms) -> Prediction:
    copy = atoms.copy()
    copy.calc = DPCalculator(potential)
    virial = -copy.get_stress(voigt=False) * copy.get_volume() if copy.pbc.all() else None
    energy, forces = copy.get_potential_energy(), copy.get_forces()
    magnetic = copy.calc.results.get("magnetic_forces")
    return Prediction(energy=energy, forces=forces, virial=virial, magnetic_forces=magnetic)


def _largest(name: str, found: Sequence[Prediction], expected: Sequence[Prediction], tolerance: float) -> Check:
    worst = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    return Check(name, worst, tolerance, note=f"{len(expected)} structures; energy, forces, virial")


def _difference(found: Prediction, expected: Prediction) -> float:
    assert found.energy is not None
    assert expected.energy is not None
    assert found.forces is not None
    assert expected.forces is not None
    assert expected.virial is not None
    worst = [
        abs(found.energy - expected.energy) / max(abs(expected.energy), 1.0),
        float(np.abs(found.forces - expected.forces).max() / max(np.abs(expected.forces).max(), 1e-3)),
    ]
    if found.magnetic_forces is not None:
        assert expected.magnetic_forces is not None
        scale = max(np.abs(expected.magnetic_forces).max(), 1e-3)
        worst.append(float(np.abs(found.magnetic_forces - expected.magnetic_forces).max() / scale))
    if found.virial is not None:
        scale = max(np.abs(expected.virial).max(), 1e-3)
        symmetric = 0.5 * (expected.virial + expected.virial.T)
        worst.append(float(np.abs(0.5 * (found.virial + found.virial.T) - symmetric).max() / scale))
    return max(worst) if all(math.isfinite(w) for w in worst) else math.inf
