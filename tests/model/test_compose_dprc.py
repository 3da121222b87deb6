"""DPRc, the correction of a QM/MM calculation: a hybrid of two descriptors, exclusions and vacuum types.

O and H are treated quantum mechanically, Ow and Hw are molecular mechanics; the model sees QM-QM pairs up to 4 Å and
QM-MM pairs up to 3 Å. MM atoms count only as far as QM atoms are near (spec fittings.md §6). The QM part has no places
for MM atoms (``sel`` 0): an excluded neighbour takes an empty place, which counts where the mean is not zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.data import Frame, write_mixed
from dpsim.descriptors.environment import Environment
from dpsim.model.checkpoint import load_model
from dpsim.model.peer.inputs.input import translate_part
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import train

TYPE_MAP = ("O", "H", "Ow", "Hw")
QM, MM = (0, 1), (2, 3)
WITHIN_QM = [[a, b] for a in QM for b in QM if a <= b]
WITH_MM = [[a, b] for a in (*QM, *MM) for b in MM if a <= b]
WITHIN_MM = [[a, b] for a in MM for b in MM if a <= b]
INPUT: dict[str, Any] = {
    "type_map": list(TYPE_MAP),
    "descriptor": {
        "type": "hybrid",
        "list": [
            {
                "type": "se_e2_a", "sel": [8, 8, 0, 0], "rcut": 4.0, "rcut_smth": 1.0, "neuron": [3, 6],
                "axis_neuron": 2, "type_one_side": True, "exclude_types": WITH_MM,
            },
            {
                "type": "se_e2_a", "sel": [20, 20, 20, 20], "rcut": 3.0, "rcut_smth": 0.5, "neuron": [3, 6],
                "axis_neuron": 2, "type_one_side": True, "exclude_types": WITHIN_QM + WITHIN_MM,
                "set_davg_zero": True,
            },
        ],
    },
    "fitting_net": {"type": "ener", "neuron": [6, 6], "atom_ener": [None, None, 0.0, 0.0]},
    "preset_out_bias": {"energy": [None, None, 0.0, 0.0]},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Trained for two steps from the input in the words of DeePMD-kit, so that all statistics are the data's."""
    folder: Path = tmp_path_factory.mktemp("dprc")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(6):
        positions, types = cluster(rng), np.array([0, 1, 1, 2, 3, 3, 2, 3, 3])
        labels = {"energy": np.array(rng.normal(-5.0, 1.0)), "forces": rng.normal(size=(9, 3))}
        frames.append(Frame(positions, types, None, labels))
    write_mixed(frames, folder / "data", TYPE_MAP)
    settings, _ = translate_part("model", INPUT, "input", TYPE_MAP)
    config = TrainConfig(model=settings, steps=2, batch_size=3, learning_rate={"start": 0.01})
    return load_model(train(config, folder / "t", train_data=folder / "data").last)


def cluster(rng):
    """A QM water molecule and two MM ones around it."""
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    places = np.array([[0.0, 0.0, 0.0], [2.4, 0.6, 0.3], [-0.5, -2.3, 1.1]])
    return (places[:, None] + water[None]).reshape(-1, 3) + rng.normal(scale=0.05, size=(9, 3))


@pytest.fixture
def evaluate(model):
    return Potential(ModuleEngine(model, "cpu"), "the model").evaluate


def test_statistics_leave_mm_atoms_at_zero(model):
    """No pair of an MM atom is in the QM list, so that its mean is zero, and its bias is the preset one."""
    assert model.out_bias[list(MM)].tolist() == [0.0, 0.0]
    assert (model.out_bias[list(QM)] != 0).all()
    first, second = (m for m in model.descriptor.modules() if isinstance(m, Environment))
    assert not first.mean[..., list(MM), :].any()
    assert (first.mean[..., list(QM), 0] > 0).all()
    assert not second.mean.any()


def test_mm_atoms_alone_have_no_energy_and_no_forces(evaluate):
    positions = cluster(np.random.default_rng(3))
    found = evaluate(positions, [2, 3, 3, 2, 3, 3, 2, 3, 3])
    assert np.array_equal(found.atomic_energy, np.zeros(9))
    assert np.array_equal(found.forces, np.zeros((9, 3)))
    far = evaluate(np.array([[0.0, 0.0, 0.0], [3.1, 0.0, 0.0]]), [0, 2])
    assert far.atomic_energy[1] == 0.0
    assert np.array_equal(far.forces, np.zeros((2, 3)))


def test_mm_atoms_interact_with_qm_atoms(evaluate):
    positions, types = cluster(np.random.default_rng(3)), np.array([0, 1, 1, 2, 3, 3, 2, 3, 3])
    found = evaluate(positions, types)
    assert np.abs(found.forces[3:]).max() > 1e-4
    assert np.abs(found.atomic_energy[3:]).max() > 1e-5


def test_there_is_no_force_between_mm_atoms(model):
    """Not by a pair: the energy of any atom has no mixed derivative by two MM atoms out of sight of the QM ones."""
    positions = np.array([[0.0, 0.0, 0.0], [2.8, 0.0, 0.0], [3.6, 0.4, 0.0], [4.2, -0.6, 0.2]])
    types = np.array([0, 2, 3, 3])
    potential = Potential(ModuleEngine(model, "cpu"), "the model")
    before = potential.evaluate(positions, types)
    positions[2:] += [[0.3, 0.1, -0.2], [0.1, 0.4, 0.3]]
    after = potential.evaluate(positions, types)
    assert np.abs(before.forces[:2]).max() > 0
    assert np.array_equal(after.forces, before.forces)
    assert not after.forces[2:].any()
    assert after.energy == before.energy


def test_mm_atoms_do_not_enter_the_qm_part(evaluate, model):
    """Beyond the shorter cutoff an MM atom changes nothing; a QM atom there does."""
    water = cluster(np.random.default_rng(3))[:3]
    alone = evaluate(water, [0, 1, 1])
    beyond = np.vstack([water, water[0] + [-2.0, -2.0, -1.5]])
    assert np.linalg.norm(beyond[3] - water, axis=1).min() > 3.0
    assert np.linalg.norm(beyond[3] - water[0]) < 4.0
    mm, qm = evaluate(beyond, [0, 1, 1, 2]), evaluate(beyond, [0, 1, 1, 0])
    np.testing.assert_allclose(mm.forces[:3], alone.forces, rtol=1e-12, atol=1e-14)
    assert mm.energy == pytest.approx(alone.energy, rel=1e-13)
    assert np.abs(qm.forces[:3] - alone.forces).max() > 1e-8


def test_forces_are_the_gradient(evaluate):
    positions, types, step = cluster(np.random.default_rng(4)), [0, 1, 1, 2, 3, 3, 2, 3, 3], 1e-4
    found = evaluate(positions, types).forces
    for atom in (0, 1, 3, 5):
        for k in range(3):
            moved = [positions.copy(), positions.copy()]
            moved[0][atom, k] += step
            moved[1][atom, k] -= step
            slope = (evaluate(moved[0], types).energy - evaluate(moved[1], types).energy) / (2 * step)
            assert found[atom, k] == pytest.approx(-slope, abs=1e-7)


def test_networks_of_mm_types_alone_subtract_their_vacuum(model):
    assert model.fitting.vacuum_by_type.squeeze(1).tolist() == [0.0, 0.0, 1.0, 1.0]
