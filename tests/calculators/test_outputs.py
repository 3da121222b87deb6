"""Dipoles, tensors, properties and parameters through ASE and through frozen models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

from dpsim import DPCalculator, load
from dpsim.calculators.freeze import freeze
from dpsim.calculators.freeze_checks import Check, with_parameters
from dpsim.descriptors import SeE2AConfig
from dpsim.errors import DataError, ModelError
from dpsim.fittings import (
    DipoleFittingConfig,
    EnergyFittingConfig,
    PolarizabilityFittingConfig,
    PropertyFittingConfig,
)
from dpsim.model.config import ModelConfig
from dpsim.testing import Subject


def potential(fitting, seed=0, **changes):
    """A small model with random parameters."""
    config = ModelConfig(type_map=("O", "H"), descriptor=SeE2AConfig.tiny(), fitting=fitting, **changes)
    return Subject.from_config(config, seed=seed).potential


DIPOLE = potential(DipoleFittingConfig.tiny())


def test_dipole():
    atoms = molecule("H2O")
    atoms.calc = DPCalculator(DIPOLE)
    found = DIPOLE.evaluate(atoms.positions, atoms.get_chemical_symbols())
    np.testing.assert_array_equal(atoms.get_dipole_moment(), found.dipole)
    np.testing.assert_array_equal(atoms.calc.get_property("atomic_dipole"), found.atomic_dipole)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()


def test_a_property_has_its_own_name():
    model = potential(PropertyFittingConfig.tiny())
    atoms = molecule("CH3CH2OH")
    atoms.symbols[[a.symbol == "C" for a in atoms]] = "O"
    atoms.calc = DPCalculator(model)
    gap = atoms.calc.get_property("gap", atoms)
    np.testing.assert_allclose(gap, atoms.calc.results["atomic_gap"].mean(axis=0))


def test_committee_of_dipoles():
    models = [potential(DipoleFittingConfig.tiny(), seed) for seed in (0, 1)]
    atoms = molecule("H2O")
    atoms.calc = DPCalculator(models)
    first = atoms.get_dipole_moment()
    both = atoms.calc.results["dipole_comm"]
    assert both.shape == (2, 3)
    np.testing.assert_array_equal(both[0], first)
    with pytest.raises(ModelError, match="a committee predicts one thing, found models of dipole, polarizability"):
        DPCalculator([DIPOLE, potential(PolarizabilityFittingConfig.tiny())])


@pytest.fixture(scope="module")
def taking():
    """A model that takes two parameters of a frame and one of each atom."""
    return potential(EnergyFittingConfig(neuron=(6, 6), numb_fparam=2, numb_aparam=1))


def test_parameters_from_the_structure(taking):
    atoms = molecule("H2O")
    atoms.info["fparam"], atoms.arrays["aparam"] = [0.1, 0.2], np.array([0.3, 0.4, 0.5])
    atoms.calc = DPCalculator(taking)
    expected = taking.evaluate(
        atoms.positions, atoms.get_chemical_symbols(), fparam=[0.1, 0.2], aparam=[[0.3], [0.4], [0.5]]
    )
    assert atoms.get_potential_energy() == expected.energy
    atoms.info["fparam"] = [0.1, 0.9]  # a change of parameters is a change of the structure
    changed = atoms.get_potential_energy()
    assert changed != expected.energy
    atoms.arrays["aparam"] = np.array([0.3, 0.4, 0.6])
    assert atoms.get_potential_energy() != changed
    del atoms.arrays["aparam"]
    atoms.info["aparam"] = [0.7]  # the same for all atoms
    found = taking.evaluate(atoms.positions, atoms.get_chemical_symbols(), fparam=[0.1, 0.9], aparam=[0.7])
    assert atoms.get_potential_energy() == found.energy


def test_missing_parameters(taking):
    atoms = molecule("H2O")
    atoms.calc = DPCalculator(taking)
    with pytest.raises(ModelError, match=r"takes fparam \(2 numbers\): give fparam of shape \(2,\)"):
        atoms.get_potential_energy()
    atoms.info["fparam"] = [0.1, 0.2, 0.3]
    with pytest.raises(DataError, match=r"fparam has shape \(3,\), expected \(2,\) numbers"):
        atoms.get_potential_energy()


def test_a_wrong_answer_fails_the_checks():
    """The comparison of tensors sees a sign and a sum."""
    from dpsim.calculators.freeze_checks import _difference

    found = DIPOLE.evaluate(np.eye(3) * 1.3, [0, 1, 1])
    for change in ({"dipole": -found.dipole}, {"atomic_dipole": found.atomic_dipole[::-1]}):
        assert not Check("x", _difference(dataclasses.replace(found, **change), found), 1e-3).passed
    assert _difference(found, found) == 0.0


FROZEN = {
    "dipole": (DipoleFittingConfig.tiny(), {}),
    "property": (
        PropertyFittingConfig.tiny().model_copy(update={"numb_fparam": 1, "numb_aparam": 2}),
        {"atom_exclude_types": (1,)},
    ),
}


@pytest.mark.parametrize("name", [pytest.param("dipole", marks=pytest.mark.slow), "property"])
def test_frozen_models_say_the_same(name, tmp_path):
    fitting, changes = FROZEN[name]
    eager = potential(fitting, **changes)
    model = eager._engine.model
    card = freeze(model, tmp_path / "m.pt2", lammps=False)
    assert card["output"] == name
    assert set(card["checks"]) == {"frozen_vs_pytorch", "ase_vs_pytorch"}
    frozen = load(tmp_path / "m.pt2")
    assert frozen.outputs == {name}
    rng = np.random.default_rng(3)
    for n in (0, 1, 7):
        atoms = with_parameters(Atoms("OHHOHOH"[:n], rng.uniform(0, 3.5, (n, 3))), model.inputs)
        frame = {"positions": atoms.positions, "types": np.arange(n) % 2, **atoms.info}
        a, b = frozen.evaluate(**frame), eager.evaluate(**frame)
        for field in (name, f"atomic_{name}"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-10, atol=1e-13)
    with pytest.raises(ModelError, match=r"predicts property|is frozen and gives dipoles only"):
        frozen.dipole_derivatives(np.zeros((1, 3)), [0])
