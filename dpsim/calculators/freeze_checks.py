"""The checks made when a model is frozen: one set of structures through every door, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from dpsim.calculators.ase import DPCalculator
from dpsim.calculators.ase_frame import frame_of, spins_of
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.calculators.single_point import lammps_atomic_values, lammps_single_point
from dpsim.model.base import Model
from dpsim.physics.neighbors import ModelInputs

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
    structures = [with_parameters(atoms, model.inputs) for atoms in check_structures(model.type_map)]
    if model.long_range:
        structures = [_off_grid(atoms, model.config.ewald_h) for atoms in structures if atoms.pbc.all()]
    reference = Potential(ModuleEngine(model, device), "model")
    expected = [_evaluate(reference, atoms) for atoms in structures]
    potential = load(frozen)
    tolerance = TOLERANCE[model.precision]
    progress(0, "comparing the frozen model with PyTorch and ASE")
    checks = [
        _largest("frozen_vs_pytorch", [_evaluate(potential, a) for a in structures], expected, tolerance),
        _largest("ase_vs_pytorch", [_through_ase(potential, a) for a in structures], expected, tolerance),
    ]
    if model.output == "energy":
        progress(1, "finite differences of forces and stress")
        checks += finite_differences(model, next(atoms for atoms in structures if atoms.pbc.all()))
    if lammps:
        progress(2, "comparing with LAMMPS")
        found = [_through_lammps(frozen, potential, atoms) for atoms in structures]
        checks.append(_largest("lammps_vs_pytorch", found, expected, tolerance))
    return checks


def _off_grid(atoms: Atoms, spacing: float) -> Atoms:
    """The structure, enlarged until a little strain does not change the number of waves in an Ewald sum."""
    enlarged = atoms.copy()
    for _ in range(50):
        sizes = enlarged.cell.lengths() / spacing
        if np.all(np.abs(sizes - 2 * np.round(sizes / 2)) > 5 * _STEP * sizes):
            break
        enlarged.set_cell(1.013 * enlarged.cell.array, scale_atoms=True)
    return enlarged


def with_parameters(atoms: Atoms, inputs: ModelInputs) -> Atoms:
    """The structure with parameters for a model that takes some: in LAMMPS they are the same for all atoms."""
    copy = atoms.copy()
    if inputs.n_fparam:
        copy.info["fparam"] = np.round(np.cos(np.arange(inputs.n_fparam)), 3)
    if inputs.n_aparam:
        copy.info["aparam"] = np.round(np.sin(1.0 + np.arange(inputs.n_aparam)), 3)
    if inputs.charge_spin:
        copy.info["charge_spin"] = np.array([1.0, 2.0])
    return copy


def _through_lammps(frozen: Path, potential: Potential, atoms: Atoms) -> Prediction:
    facts, names = potential.facts, ("fparam", "aparam", "charge_spin")
    given = {name: " ".join(map(str, atoms.info[name])) for name in names if name in atoms.info}
    words = " ".join(f"{name} {values}" for name, values in given.items())
    if facts.output != "energy":
        values: dict[str, Any] = {f"atomic_{facts.output}": lammps_atomic_values(frozen, atoms, facts, words=words)}
        return Prediction(**values)
    spins = None if facts.spin is None else spins_of(atoms)
    return lammps_single_point(frozen, atoms, facts.type_map, spins=spins, words=words)


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
    copy, output = atoms.copy(), potential.facts.output
    copy.calc = DPCalculator(potential)
    if output != "energy":
        name = copy.calc.implemented_properties[0]
        total, atomic = (copy.calc.get_property(key, copy) for key in (name, f"atomic_{name}"))
        return Prediction(**{output: total, f"atomic_{output}": atomic})
    virial = -copy.get_stress(voigt=False) * copy.get_volume() if copy.pbc.all() else None
    energy, forces = copy.get_potential_energy(), copy.get_forces()
    magnetic = copy.calc.results.get("magnetic_forces")
    return Prediction(energy=energy, forces=forces, virial=virial, magnetic_forces=magnetic)


def _largest(name: str, found: Sequence[Prediction], expected: Sequence[Prediction], tolerance: float) -> Check:
    worst = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    compared = [key for key in _SCALES if getattr(expected[0], key) is not None]
    return Check(name, worst, tolerance, note=f"{len(expected)} structures; {', '.join(compared)}")


# What is compared, and the least that a difference is relative to: below it, what is left is rounding.
_SCALES = {
    "energy": 1.0, "forces": 1e-3, "magnetic_forces": 1e-3, "virial": 1e-3,
    **{f"{prefix}{name}": 1e-6 for name in ("dipole", "polarizability", "dos", "property", "population")
       for prefix in ("", "atomic_")},
}  # fmt: skip


def _difference(found: Prediction, expected: Prediction) -> float:
    """Largest difference of what was found, relative to the largest component of each quantity."""
    worst = []
    for name, smallest in _SCALES.items():
        a, b = getattr(found, name), getattr(expected, name)
        if a is None:
            continue
        a, b = np.asarray(a), np.asarray(b)
        scale = max(float(np.abs(b).max(initial=0.0)), smallest)
        if name == "virial":  # ASE's stress has no antisymmetric part
            a, b = 0.5 * (a + a.T), 0.5 * (b + b.T)
        worst.append(float(np.abs(a - b).max(initial=0.0)) / scale)
    return max(worst) if worst and all(math.isfinite(w) for w in worst) else math.inf
