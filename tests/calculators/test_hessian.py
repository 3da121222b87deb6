"""Hessians: against finite differences of the forces, by symmetry, of any model of energies, and through ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.vibrations import VibrationsData

from dpsim import DPCalculator
from dpsim.calculators.engines import FrozenEngine, ModelFacts, ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.errors import ModelError
from dpsim.fittings import DipoleFittingConfig
from dpsim.model.config import ModelConfig
from dpsim.model.peer.files.checkpoint import load_checkpoint
from dpsim.physics import hessian as physics
from dpsim.physics.hessian import Bend
from dpsim.physics.neighborhood import collate
from dpsim.testing import Subject, tiny_models

MODELS = {
    name: config
    for name, config in tiny_models().items()
    if not isinstance(config, ModelConfig) or config.fitting.output == "energy"
}
# the second derivative of a cubic spline has corners, which finite differences smooth
ROUGH = dict.fromkeys(("pairtab", "linear", "zbl"), 1e-3)


def from_forces(subject, structure, step=1e-3):
    """Hessian by five-point differences of the forces."""
    n = structure.positions.size
    moves = np.eye(n).reshape(n, *structure.positions.shape)
    weights = zip((-2, -1, 1, 2), np.array([1.0, -8.0, 8.0, -1.0]) / 12, strict=True)
    rows = np.zeros((n, n))
    for s, weight in weights:
        moved = [structure._replace(positions=structure.positions + s * step * move) for move in moves]
        rows -= weight / step * np.stack([np.ravel(p.forces) for p in subject.evaluate_many(moved)])
    return rows


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["molecule", "small cell"])
def test_finite_differences(name, kind):
    subject = Subject.from_config(MODELS[name])
    structure = subject.samples()[kind]
    found = subject.potential.hessian(**subject.frame(structure))
    largest = np.abs(found).max()
    assert largest > 0
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-12 * largest)
    expected = from_forces(subject, structure)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUGH.get(name, 1e-7) * largest)


@pytest.fixture(scope="module")
def subject():
    return Subject.from_config(ModelConfig.tiny())


def test_moving_everything_costs_nothing(subject):
    found = subject.potential.hessian(**subject.frame(subject.crystal())).reshape(9, 3, 9, 3)
    np.testing.assert_allclose(found.sum(axis=2), 0.0, atol=1e-12 * np.abs(found).max())


def test_the_number_of_copies_makes_no_difference(subject, monkeypatch):
    frame = subject.frame(subject.molecule(5))
    expected = subject.potential.hessian(**frame)
    edges = subject.graph(subject.molecule(5)).n_edges
    for copies in (1, 2, 3):
        monkeypatch.setattr(physics, "EDGES_AT_ONCE", copies * edges)
        found = subject.potential.hessian(**frame)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_frames_of_different_size_at_once(subject):
    structures = [subject.molecule(4), subject.molecule(2), subject.crystal(2, seed=1)]
    hood = collate([subject.graph(one) for one in structures])
    d = subject.model.derivatives(hood, 3, create_graph=True)
    assert d.displacements is not None
    for found, structure in zip(Bend(d.edge_gradient, d.displacements, hood, 3, 2).matrices(), structures, strict=True):
        expected = subject.potential.hessian(**subject.frame(structure))
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-13)


def test_placeholders_have_zeros(subject):
    structure = subject.molecule(3)
    positions = np.insert(structure.positions, 1, 0.5, axis=0)
    types = np.insert(structure.types, 1, -1)
    found = subject.potential.hessian(positions, types)
    kept = np.flatnonzero(np.repeat(types >= 0, 3))
    np.testing.assert_array_equal(found[np.ix_(kept, kept)], subject.potential.hessian(**structure.as_frame()))
    assert not found[3:6].any()
    assert not found[:, 3:6].any()


@pytest.mark.parametrize("n", [0, 1])
def test_without_neighbours(subject, n):
    found = subject.potential.hessian(np.zeros((n, 3)), np.zeros(n, dtype=int))
    np.testing.assert_array_equal(found, np.zeros((3 * n, 3 * n)))


def test_single_precision_is_near(subject):
    frame = subject.frame(subject.molecule())
    expected = subject.potential.hessian(**frame)
    single = Potential(ModuleEngine(subject.model.with_precision("float32"), "cpu"), "single")
    found = single.hessian(**frame)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_models_that_have_none(subject):
    dipoles = ModelConfig.tiny().model_copy(update={"fitting": DipoleFittingConfig.tiny()})
    with pytest.raises(ModelError, match="dipoles predicts dipole: only energies have a Hessian"):
        Potential(ModuleEngine(dipoles.build(0), "cpu"), "dipoles").hessian(np.eye(3), [0, 1, 0])
    frozen = FrozenEngine.__new__(FrozenEngine)
    frozen.facts, frozen.device = ModelFacts.of_model(subject.model), "cpu"
    with pytest.raises(ModelError, match=r"x\.pt2 is frozen and gives first derivatives only: load the \.safetensors"):
        Potential(frozen, "x.pt2").hessian(np.eye(3), [0, 1, 0])


def test_vibrations_of_ase(subject):
    structure = subject.molecule(4)
    atoms = Atoms(["OH"[t] for t in structure.types], structure.positions)
    atoms.calc = DPCalculator(subject.potential)
    with pytest.raises(ModelError, match="there is no structure yet"):
        atoms.calc.get_hessian()
    found = atoms.calc.get_hessian(atoms)
    np.testing.assert_array_equal(found, subject.potential.hessian(**structure.as_frame()))
    atoms.get_forces()
    np.testing.assert_array_equal(atoms.calc.get_hessian(), found)
    energies = VibrationsData.from_2d(atoms, found).get_energies()
    assert energies.shape == (12,)
    assert np.abs(energies[np.abs(energies).argsort()[:3]]).max() < 1e-6  # translations


def test_a_model_in_hessian_mode_is_read(golden, tmp_path):
    content = torch.load(golden / "ckpt_se_a.ckpt-10.pt", map_location="cpu", weights_only=True)
    content["model"]["_extra_state"]["model_params"]["hessian_mode"] = True
    torch.save({"model": content["model"]}, tmp_path / "model.pt")
    model = load_checkpoint(tmp_path / "model.pt")
    potential = Potential(ModuleEngine(model, "cpu"), "model")
    found = potential.hessian(np.eye(3) + 0.1, [0, 1, 1])
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-12)
    assert found.any()
