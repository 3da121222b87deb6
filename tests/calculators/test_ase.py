"""`DPCalculator` by ASE's conventions."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_stress

from dpsim import DPCalculator
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.errors import ModelError
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig


def tiny(seed=0):
    return ModelConfig.tiny().build(seed)


@pytest.fixture(scope="module")
def potential():
    return Potential(ModuleEngine(tiny(), "cpu"), "tiny model")


@pytest.fixture
def counted(monkeypatch):
    calls = []
    original = Potential.evaluate

    def evaluate(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Potential, "evaluate", evaluate)
    return calls


@pytest.fixture
def water(potential):
    atoms = molecule("H2O")
    atoms.calc = DPCalculator(potential)
    return atoms


@pytest.fixture
def crystal(potential):
    rng = np.random.default_rng(0)
    atoms = Atoms("OH2O", cell=[[3.6, 0, 0], [0.4, 3.9, 0], [-0.5, 0.3, 4.2]], pbc=True)
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.1, 0.5, 0.5], [0.5, 0.1, 0.6]])
    atoms.set_scaled_positions(sites + rng.uniform(0, 0.05, (4, 3)))
    atoms.calc = DPCalculator(potential)
    return atoms


def test_implemented_properties(crystal):
    names = DPCalculator.implemented_properties
    assert names == ["energy", "free_energy", "forces", "stress", "energies", "stresses"]
    for name in names:
        assert crystal.calc.get_property(name, crystal) is not None
    for name in set(all_properties) - set(names):
        with pytest.raises(PropertyNotImplementedError):
            crystal.calc.get_property(name, crystal)


def test_energies(crystal):
    energy = crystal.get_potential_energy()
    assert crystal.get_potential_energy(force_consistent=True) == energy
    assert crystal.calc.results["free_energy"] == energy
    assert crystal.get_potential_energies().shape == (4,)
    assert crystal.get_potential_energies().sum() == pytest.approx(energy, rel=1e-13)


def test_forces_and_stress_are_derivatives(crystal):
    forces = crystal.get_forces()
    np.testing.assert_allclose(forces, calculate_numerical_forces(crystal, eps=1e-4), atol=1e-8)
    stress = crystal.get_stress()
    assert stress.shape == (6,)
    np.testing.assert_allclose(stress, calculate_numerical_stress(crystal, eps=1e-5), atol=1e-8)
    assert np.abs(stress).max() > 1e-5  # the comparison means something
    assert len(set(np.round(stress, 9))) == 6  # a wrong Voigt order would be seen


def test_stress_is_minus_virial_over_volume(crystal, potential):
    virial = potential.evaluate(crystal.positions, crystal.get_chemical_symbols(), crystal.cell.array).virial
    np.testing.assert_allclose(crystal.get_stress(voigt=False), -virial / crystal.get_volume(), atol=1e-13)
    xx, yy, zz, yz, xz, xy = -virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / crystal.get_volume()
    np.testing.assert_allclose(crystal.get_stress(), [xx, yy, zz, yz, xz, xy], atol=1e-13)
    assert crystal.get_stresses().shape == (4, 6)
    np.testing.assert_allclose(crystal.get_stresses().sum(axis=0), crystal.get_stress(), atol=1e-13)


def test_stress_is_positive_under_tension(potential):
    """A chain that resists stretching (dE/dstrain > 0) has positive stress, by the sign of the difference itself."""
    atoms = bulk("Cu", cubic=True, a=4.0)
    atoms.symbols[:] = "O"
    atoms.calc = DPCalculator(potential)
    wide, narrow = atoms.copy(), atoms.copy()
    for other, scale in ((wide, 1.001), (narrow, 0.999)):
        other.set_cell(atoms.cell * scale, scale_atoms=True)
        other.calc = atoms.calc
    slope = (wide.get_potential_energy() - narrow.get_potential_energy()) / 0.002
    pressure = -np.trace(voigt_6_to_full_3x3_stress(atoms.get_stress())) / 3
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(-3 * pressure * atoms.get_volume(), rel=1e-3)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False), (True, False, False)])
def test_no_stress_without_a_full_cell(crystal, pbc):
    crystal.pbc = pbc
    with pytest.raises(
        PropertyNotImplementedError, match=r"stress needs a cell that is periodic in three directions, found pbc="
    ):
        crystal.get_stress()
    crystal.get_forces()
    assert "stress" not in crystal.calc.results


def test_partial_periodicity_is_a_vacuum(crystal):
    wide = crystal.copy()
    wide.center(vacuum=6.0, axis=2)
    wide.calc = DPCalculator(crystal.calc.potentials[0])
    expected = wide.get_potential_energy()
    for cell in (crystal.cell.array, crystal.cell.array * [[1], [1], [0]]):
        slab = crystal.copy()
        slab.pbc = (True, True, False)
        slab.cell = cell
        slab.calc = wide.calc
        assert slab.get_potential_energy() == pytest.approx(expected, rel=1e-12)


def test_no_atoms(potential):
    atoms = Atoms(calculator=DPCalculator(potential))
    assert atoms.get_potential_energy() == 0.0
    assert atoms.get_forces().shape == (0, 3)


def test_results_are_kept_until_something_changes(crystal, counted):
    crystal.get_potential_energy()
    crystal.get_forces()
    crystal.get_stress()
    crystal.get_potential_energies()
    assert len(counted) == 1
    changes = [
        lambda: crystal.positions.__setitem__((0, 0), 0.01),
        lambda: crystal.set_cell(crystal.cell * 1.01),
        lambda: crystal.symbols.__setitem__(0, "H"),
        lambda: setattr(crystal, "pbc", (True, True, False)),
    ]
    for n, change in enumerate(changes):
        before = crystal.get_potential_energy()
        change()
        assert crystal.calc.check_state(crystal)
        assert crystal.get_potential_energy() != before
        assert len(counted) == n + 2
    assert not crystal.calc.check_state(crystal)


def test_results_do_not_change_afterwards(crystal):
    forces = crystal.get_forces()
    kept = forces.copy()
    crystal.rattle(0.05, seed=1)
    crystal.get_forces()
    np.testing.assert_array_equal(forces, kept)


def test_committee(tmp_path, crystal):
    paths = [save_model(tiny(seed), tmp_path / f"{seed}.safetensors") for seed in (3, 4, 5)]
    crystal.calc = DPCalculator(paths, device="cpu")
    energy, forces = crystal.get_potential_energy(), crystal.get_forces()
    results = crystal.calc.results
    assert results["energy_comm"].shape == (3,)
    assert results["forces_comm"].shape == (3, 4, 3)
    for index, path in enumerate(paths):
        crystal.calc = DPCalculator(str(path))
        assert crystal.get_potential_energy() == pytest.approx(results["energy_comm"][index], rel=1e-14)
        np.testing.assert_allclose(crystal.get_forces(), results["forces_comm"][index], atol=1e-14)
        assert "energy_comm" not in crystal.calc.results
    assert energy == results["energy_comm"][0]  # the first model drives
    np.testing.assert_array_equal(forces, results["forces_comm"][0])


def test_empty_committee():
    with pytest.raises(ModelError, match="DPCalculator needs at least one model, found an empty list"):
        DPCalculator([])


def test_unknown_element(potential):
    atoms = molecule("CO")
    atoms.calc = DPCalculator(potential)
    with pytest.raises(ModelError, match="element 'C' is not in the model's type map"):
        atoms.get_potential_energy()


def test_results_are_double_with_a_single_precision_model(tmp_path, crystal):
    path = save_model(tiny().with_precision("float32"), tmp_path / "single.safetensors")
    double = crystal.get_forces()
    crystal.calc = DPCalculator(path)
    assert crystal.calc.potentials[0].dtype == "float32"
    crystal.get_stress()
    for name, value in crystal.calc.results.items():
        assert np.asarray(value).dtype == np.float64, name
    np.testing.assert_allclose(crystal.get_forces(), double, atol=1e-4 * np.abs(double).max())
    forced = DPCalculator(path, dtype="float64")
    assert forced.potentials[0].dtype == "float64"


def test_relaxation(water):
    water.rattle(0.05, seed=0)
    before = water.get_potential_energy()
    with BFGS(water, logfile=None) as optimizer:
        converged = optimizer.run(fmax=1e-4, steps=200)
    assert converged
    assert np.linalg.norm(water.get_forces(), axis=1).max() < 1e-4
    assert water.get_potential_energy() < before


def test_relaxation_of_cell_and_constraints(crystal):
    crystal.set_constraint(FixAtoms([0]))
    kept, before = crystal.get_scaled_positions()[0], crystal.get_potential_energy()
    with BFGS(FrechetCellFilter(crystal), logfile=None) as optimizer:
        optimizer.run(fmax=1e-3, steps=10)
    assert crystal.get_potential_energy() < before
    np.testing.assert_allclose(crystal.get_scaled_positions()[0], kept, atol=1e-8)


def test_energy_is_conserved_in_dynamics(crystal):
    rng = np.random.default_rng(0)
    crystal.set_velocities(rng.normal(size=(4, 3)) * 0.01)
    start = crystal.get_total_energy()
    drift = []
    with VelocityVerlet(crystal, timestep=0.5 * units.fs) as dynamics:
        for _ in dynamics.irun(20):
            drift.append(crystal.get_total_energy() - start)
    assert crystal.get_kinetic_energy() > 1e-3
    assert np.abs(drift).max() < 1e-4
