"""DPLR: short-range energies and electrostatics of ions and Wannier centroids, in Python and ASE, and in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from pydantic import ValidationError

from dpsim import ops
from dpsim.calculators.ase import DPCalculator
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.errors import ConfigError, DataError, ModelError
from dpsim.export.compile import describe, trace_all
from dpsim.fittings import DipoleFittingConfig
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.model.compose.dplr import compose
from dpsim.model.compose.dplr_config import DPLRModelConfig
from dpsim.model.config import ModelConfig, read_config
from dpsim.physics.ewald import reciprocal
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph

WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
STENCIL = (-2, -1, 1, 2)


def potential_of(model):
    return Potential(ModuleEngine(model, "cpu"), "the model")


def crystal(seed=0):
    rng = np.random.default_rng(seed)
    cell = np.array([[6.1, 0.2, 0.1], [0.3, 5.7, -0.4], [0.2, -0.3, 6.4]])
    sites = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (sites + rng.uniform(-0.12, 0.12, (8, 3))) / 2 @ cell, np.array([0, 1, 1, 0, 1, 1, 1, 1]), cell


@pytest.fixture(scope="module")
def model():
    return DPLRModelConfig.tiny().build(3).with_precision("float64")


@pytest.fixture(scope="module")
def potential(model):
    return potential_of(model)


def test_energy_is_the_sum_of_its_parts(model, potential):
    """Short-range energy, and the Ewald sum over ions and, displaced by the dipoles, centroids of oxygen."""
    positions, types, cell = crystal()
    short, dipoles = (potential_of(part) for part in model.models)
    mu = dipoles.evaluate(positions, types, cell).atomic_dipole
    oxygen = types == 0
    sites = torch.from_numpy(np.concatenate([positions, positions[oxygen] + mu[oxygen]]))
    charges = torch.from_numpy(np.concatenate([np.where(oxygen, 6.0, 1.0), np.full(oxygen.sum(), -8.0)]))
    electric = reciprocal(sites, charges, torch.from_numpy(cell), 1.0, 0.4).energy.item()
    found = potential.evaluate(positions, types, cell)
    assert found.energy == pytest.approx(short.evaluate(positions, types, cell).energy + electric, rel=1e-12)
    assert np.abs(mu[oxygen]).max() > 0.01
    assert found.atomic_energy.sum() == pytest.approx(found.energy, rel=1e-13)
    np.testing.assert_allclose(found.atomic_virial.sum(axis=0), found.virial, rtol=1e-12, atol=1e-12)


def test_forces_are_the_gradient(potential):
    positions, types, cell = crystal()
    step, expected = 1e-3, np.zeros((8, 3))
    for atom in range(8):
        for k in range(3):
            move = np.zeros((8, 3))
            move[atom, k] = step
            energies = [potential.evaluate(positions + s * move, types, cell).energy for s in STENCIL]
            expected[atom, k] = -np.dot(WEIGHTS, energies) / step
    found = potential.evaluate(positions, types, cell).forces
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-10)


def test_virial_is_the_derivative_by_strain(potential):
    positions, types, cell = crystal()
    step, expected = 1e-3, np.zeros((3, 3))
    for k, j in np.ndindex(3, 3):
        deformations = [np.eye(3) + s * step * np.outer(np.eye(3)[k], np.eye(3)[j]) for s in STENCIL]
        energies = [potential.evaluate(positions @ d.T, types, cell @ d.T).energy for d in deformations]
        expected[k, j] = -np.dot(WEIGHTS, energies) / step
    found = potential.evaluate(positions, types, cell).virial
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(found, found.T, rtol=1e-10)


def test_symmetries(potential):
    positions, types, cell = crystal()
    before = potential.evaluate(positions, types, cell)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = np.random.default_rng(2).permutation(8)
    turned = potential.evaluate(positions @ q.T, types, cell @ q.T)
    np.testing.assert_allclose(turned.forces, before.forces @ q.T, atol=1e-9)
    np.testing.assert_allclose(turned.virial, q @ before.virial @ q.T, atol=1e-9)
    other = potential.evaluate(positions[order], types[order], cell)
    np.testing.assert_allclose(other.forces, before.forces[order], atol=1e-10)
    moved = potential.evaluate(positions + [1.0, -2.0, 0.4] + 3 * cell[1], types, cell)
    assert moved.energy == pytest.approx(before.energy, rel=1e-12)
    double = potential.evaluate(np.vstack([positions, positions + cell[0]]), [*types, *types], cell * [[2], [1], [1]])
    assert double.energy == pytest.approx(2 * before.energy, rel=1e-5)  # the grid of twice the cell is not the same


def test_batches_and_placeholders(potential):
    frames = []
    for seed in range(3):
        positions, types, cell = crystal(seed)
        frames.append({"positions": positions[: 8 - seed], "types": types[: 8 - seed], "cell": cell * (1 + 0.1 * seed)})
    frames[1]["types"] = np.where(np.arange(7) == 3, -1, frames[1]["types"])
    together = potential.evaluate_many(frames)
    for found, frame in zip(together, frames, strict=True):
        alone = potential.evaluate(**frame)
        assert found.energy == pytest.approx(alone.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, alone.forces, atol=1e-11)
    assert not together[1].forces[3].any()
    real = frames[1]["types"] >= 0
    without = potential.evaluate(frames[1]["positions"][real], frames[1]["types"][real], frames[1]["cell"])
    assert together[1].energy == pytest.approx(without.energy, rel=1e-12)


def test_a_structure_that_is_not_periodic_is_refused(potential):
    positions, types, cell = crystal()
    for structure in ({"cell": None}, {"cell": cell, "periodic": (True, True, False)}):
        with pytest.raises(DataError, match="frame 0: the model has electrostatics of a periodic cell"):
            potential.evaluate(positions, types, **structure)


def test_one_file_holds_both_models(model, potential, tmp_path):
    path = save_model(model, tmp_path / "dplr.safetensors")
    assert read_config(model.config.model_dump(mode="json")) == model.config
    assert state_digest(load_model(path)) == state_digest(model)
    positions, types, cell = crystal()
    found, expected = load(path).evaluate(positions, types, cell), potential.evaluate(positions, types, cell)
    assert np.array_equal(found.forces, expected.forces)
    single = load(path, dtype="float32").evaluate(positions, types, cell)
    np.testing.assert_allclose(single.forces, expected.forces, atol=1e-4 * np.abs(expected.forces).max())


def test_in_ase(potential):
    positions, types, cell = crystal()
    atoms = Atoms(np.array(["O", "H"])[types], positions, cell=cell, pbc=True, calculator=DPCalculator(potential))
    expected = potential.evaluate(positions, types, cell)
    assert atoms.get_potential_energy() == expected.energy
    assert np.array_equal(atoms.get_forces(), expected.forces)
    volume = atoms.get_volume()
    np.testing.assert_allclose(atoms.get_stress(voigt=False), -expected.virial / volume, rtol=1e-9, atol=1e-12)


def test_a_hessian_is_refused(potential):
    positions, types, cell = crystal()
    with pytest.raises(ModelError, match="has electrostatics, whose second derivatives are not there"):
        potential.hessian(positions, types, cell)


@pytest.mark.skipif(not ops.load(), reason="no native operators")
def test_graphs_of_the_frozen_form(model):
    """Short-range energies, dipoles, and how the work of forces on the centroids changes with the edges."""
    programs = trace_all(model, "cpu")
    assert tuple(programs) == describe(model, "cpu").graphs == ("model", "dipole", "dipole_gradient")
    for seed, n in ((0, 8), (1, 3)):
        positions, types, cell = crystal(seed)
        hood = collate([frame_graph(positions[:n], types[:n], cell, model.neighbors)])
        displacements = hood.displacements.clone().requires_grad_(True)
        dipoles = model.dipoles(hood._replace(displacements=displacements))
        forces = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3)))
        (expected,) = torch.autograd.grad((forces * dipoles).sum(), displacements)
        inputs = hood.tensors()
        energies, _ = programs["model"].module()(*inputs)
        torch.testing.assert_close(energies, model(hood), rtol=0, atol=1e-12)
        torch.testing.assert_close(programs["dipole"].module()(*inputs)[0], dipoles, rtol=0, atol=1e-12)
        found = programs["dipole_gradient"].module()(*inputs, forces)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_header_of_the_frozen_form(model):
    """A format of its own, so that nothing takes the short-range part for the whole."""
    metadata = describe(model, "cpu")
    assert metadata.format == 3
    assert metadata.electrostatics is not None
    assert metadata.electrostatics.model_dump() == {
        "ion_charge": (6.0, 1.0), "centroid_charge": (-8.0, 0.0), "ewald_h": 1.0, "ewald_beta": 0.4
    }  # fmt: skip
    plain = describe(model.models[0], "cpu")
    assert (plain.format, plain.electrostatics, plain.graphs) == (2, None, ("model",))


def wannier(type_map=("O", "H"), **fitting):
    settings = DipoleFittingConfig.tiny().model_dump() | fitting
    return ModelConfig.model_validate(ModelConfig.tiny().model_dump() | {"type_map": type_map, "fitting": settings})


def test_composing_two_models():
    """The dipole model may know its elements in another order; excluded ones have no centroid."""
    short, dipole = ModelConfig.tiny().build(1), wannier(("H", "C", "O"), exclude_types=(0,)).build(2)
    whole = compose(short, dipole, {"O": -8.0}, {"O": 6.0, "H": 1.0}, ewald_h=0.7, ewald_beta=0.6)
    assert (whole.config.ewald_h, whole.config.ewald_beta) == (0.7, 0.6)
    positions, types, cell = crystal()
    symbols = np.array(["O", "H"])[types]
    found = potential_of(whole).evaluate(positions, types, cell)
    mu = potential_of(dipole).evaluate(positions, symbols, cell).atomic_dipole
    assert not mu[types == 1].any()
    sites = torch.from_numpy(np.concatenate([positions, positions + mu]))
    charges = torch.from_numpy(np.concatenate([np.where(types, 1.0, 6.0), np.where(types, 0.0, -8.0)]))
    electric = reciprocal(sites, charges, torch.from_numpy(cell), 0.7, 0.6).energy.item()
    assert found.energy - electric == pytest.approx(potential_of(short).evaluate(positions, types, cell).energy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sys_charge_map": {"O": 6.0}}, r"sys_charge_map has \['O'\], expected a charge for each of \['H', 'O'\]"),
        (
            {"model_charge_map": {"C": -8.0}},
            "model_charge_map has 'C', but the dipole model gives dipoles of O, H only",
        ),
        ({"model_charge_map": {}}, "at least 1 item"),
        ({"dipole": ModelConfig.tiny().model_dump()}, "part 1 predicts 'energy', expected 'dipole'"),
        ({"model": wannier().model_dump()}, "part 0 predicts 'dipole', expected 'energy'"),
        ({"ewald_beta": 0.0}, "ewald_beta"),
        ({"ewald_h": 0.0}, "ewald_h"),
    ],
)
def test_wrong_settings(changes, says):
    with pytest.raises(ValidationError, match=says):
        DPLRModelConfig.model_validate(DPLRModelConfig.tiny().model_dump() | changes)


def test_models_that_do_not_fit():
    short = ModelConfig.tiny().build(1)
    with pytest.raises(ConfigError, match="part 1 does not know O"):
        compose(short, wannier(("H",)).build(0), {"H": 1.0}, {"O": 6.0, "H": 1.0})
