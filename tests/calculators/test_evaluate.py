"""`dpsim.load` and `Potential`: inputs, batches, results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dpsim
from dpsim.calculators import evaluate
from dpsim.calculators.ase import DPCalculator
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.descriptors import SeE3TebdConfig
from dpsim.errors import DataError, ModelError
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig

POSITIONS = np.array([[0.0, 0.0, 0.0], [1.1, 0.2, 0.1], [0.1, 1.4, -0.3], [1.5, 1.6, 0.9]])
TYPES = [0, 1, 1, 0]
CELL = np.array([[4.0, 0.0, 0.0], [0.5, 4.2, 0.0], [-0.3, 0.4, 4.4]])


@pytest.fixture(scope="module")
def potential():
    return Potential(ModuleEngine(ModelConfig.tiny().build(), "cpu"), "tiny model")


def same(a, b, names=("energy", "forces", "virial", "atomic_energy")):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-13)


def test_what_a_prediction_holds(potential):
    p = potential.evaluate(POSITIONS, TYPES, CELL)
    assert isinstance(p.energy, float)
    assert p.forces.shape == (4, 3)
    assert p.virial.shape == (3, 3)
    assert p.atomic_energy.shape == (4,)
    assert p.atomic_virial.shape == (4, 3, 3)
    assert all(x.dtype == np.float64 for x in (p.forces, p.virial, p.atomic_energy, p.atomic_virial))
    assert p.energy == pytest.approx(p.atomic_energy.sum(), rel=1e-14)
    np.testing.assert_allclose(p.atomic_virial.sum(axis=0), p.virial, atol=1e-14)
    assert p.dipole is p.polarizability is p.dos is p.property is p.magnetic_forces is None


def test_what_a_potential_says_of_itself(potential):
    assert potential.type_map == ("O", "H")
    assert potential.cutoff == 4.0
    assert potential.dtype == "float64"
    assert potential.outputs == {"energy"}
    assert repr(potential) == "Potential('tiny model', type_map=['O', 'H'], cutoff=4.0 Å, dtype=float64)"


def test_ways_to_write_the_same_structure(potential):
    expected = potential.evaluate(POSITIONS, TYPES, CELL)
    strided = np.zeros((4, 6))
    strided[:, ::2] = POSITIONS
    for positions, types, cell in (
        (POSITIONS.tolist(), ["O", "H", "H", "O"], CELL.tolist()),
        (POSITIONS.ravel(), np.array(TYPES, dtype=np.uint8), CELL.ravel()),
        (POSITIONS, np.array(["O", "H", "H", "O"], dtype=object), CELL),
        (np.asfortranarray(POSITIONS), tuple(TYPES), np.asfortranarray(CELL)),
        (strided[:, ::2], np.array(["O", "H", "H", "O"]), CELL),
        (torch.from_numpy(POSITIONS), torch.tensor(TYPES), torch.from_numpy(CELL)),
    ):
        same(potential.evaluate(positions, types, cell), expected)


def test_inputs_are_left_alone(potential):
    positions, types, cell = POSITIONS.copy(), np.array(TYPES), CELL.copy()
    for array in (positions, types, cell):
        array.flags.writeable = False
    potential.evaluate(positions, types, cell)
    np.testing.assert_array_equal(positions, POSITIONS)


def test_results_do_not_share_memory(potential):
    a, b = potential.evaluate_many([{"positions": POSITIONS, "types": TYPES}] * 2)
    a.forces[:] = 7.0
    assert not np.any(b.forces == 7.0)


def test_repeated_evaluation_has_the_same_bits(potential):
    a, b = (potential.evaluate(POSITIONS, TYPES, CELL) for _ in range(2))
    assert a.energy == b.energy
    np.testing.assert_array_equal(a.forces, b.forces)


@pytest.mark.parametrize("limit", [1, 60, 10**9])
def test_many_frames_in_batches_of_any_size(potential, monkeypatch, limit):
    monkeypatch.setattr(evaluate, "EDGES_PER_BATCH", limit)
    frames = [
        {"positions": POSITIONS[:n] * scale, "types": TYPES[:n], "cell": CELL if n % 2 else None}
        for n in (4, 0, 1, 3, 2)
        for scale in (1.0, 1.3)
    ]
    found = potential.evaluate_many(iter(frames))
    assert len(found) == len(frames)
    for p, frame in zip(found, frames, strict=True):
        same(p, potential.evaluate(**frame))
    assert potential.evaluate_many([]) == []


@pytest.fixture(scope="module")
def local_model():
    """Pairs of edges, and no messages."""
    return ModelConfig(type_map=("O", "H"), descriptor=SeE3TebdConfig.tiny()).build().with_precision("float64")


@pytest.mark.parametrize("chunk", [1, 3, 4, 1000])
def test_atoms_in_chunks(local_model, chunk, monkeypatch):
    engine = ModuleEngine(local_model, "cpu")
    frames = [
        {"positions": POSITIONS, "types": TYPES, "cell": CELL},
        {"positions": POSITIONS * 50, "types": TYPES},
        {"positions": np.zeros((0, 3)), "types": []},
        {"positions": POSITIONS[:3], "types": [-1, 1, 0], "cell": CELL},
    ]
    sizes = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda hood: sizes.append(hood.n_atoms) or run(hood))
    found = Potential(engine, "local", chunk=chunk).evaluate_many(frames)
    assert sizes == [min(chunk, 10 - first) for first in range(0, 10, chunk)]
    sizes.clear()
    whole = Potential(engine, "local", chunk=0).evaluate_many(frames)
    assert sizes == [10]
    for a, b in zip(found, whole, strict=True):
        same(a, b)
    assert np.abs(whole[0].forces).max() > 1e-4


def test_chunks_that_cannot_be(potential, local_model, tmp_path):
    with pytest.raises(ModelError, match=r"tiny model cannot evaluate 5 atoms at a time, .* pass messages"):
        Potential(ModuleEngine(ModelConfig.tiny().build(), "cpu"), "tiny model", chunk=5)
    for wrong in (-1, 2.5):
        with pytest.raises(ModelError, match=rf"chunk={wrong} is no number of atoms"):
            Potential(ModuleEngine(local_model, "cpu"), "local", chunk=wrong)
    path = save_model(local_model, tmp_path / "m.safetensors")
    same(load(path, chunk=2).evaluate(POSITIONS, TYPES, CELL), load(path).evaluate(POSITIONS, TYPES, CELL))
    same(load(path, chunk=2).evaluate_many([{"positions": POSITIONS, "types": TYPES, "cell": CELL}])[0],
         DPCalculator(path, chunk=1).potentials[0].evaluate(POSITIONS, TYPES, CELL))  # fmt: skip


def test_periodic_directions(potential):
    slab = potential.evaluate(POSITIONS, TYPES, CELL, periodic=(True, True, False))
    same(slab, potential.evaluate(POSITIONS, TYPES, CELL, periodic=np.array([1, 1, 0])))
    assert slab.energy != potential.evaluate(POSITIONS, TYPES, CELL).energy
    same(potential.evaluate(POSITIONS, TYPES, CELL, periodic=(False,) * 3), potential.evaluate(POSITIONS, TYPES))


def test_descriptor(potential):
    found = potential.descriptor(POSITIONS, [0, -1, 1, 0], CELL)
    assert found.shape == (4, 8)
    assert not found[1].any()
    real = [0, 2, 3]
    np.testing.assert_allclose(found[real], potential.descriptor(POSITIONS[real], [0, 1, 0], CELL), atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"types": ["O", "H", "C", "O"]},
            ModelError,
            r"frame 0: element 'C' is not in the model's type map \['O', 'H'\]",
        ),
        ({"types": [0, 1, 2, 0]}, ModelError, "frame 0: type 2 is outside the model's type map"),
        ({"types": [0, 1, -2, 0]}, ModelError, "frame 0: type -2 is outside the model's type map"),
        ({"types": [0.5, 1, 1, 0]}, DataError, r"frame 0: types are float64 of shape \(4,\), expected one index or"),
        ({"types": [True, False, True, False]}, DataError, "frame 0: types are bool"),
        ({"types": [[0, 1, 1, 0]]}, DataError, r"frame 0: types are int64 of shape \(1, 4\)"),
        ({"types": None}, DataError, "frame 0: types are object"),
        (
            {"positions": POSITIONS[:, :2]},
            DataError,
            r"frame 0: positions: found shape \(4, 2\), expected \(n_atoms, 3\)",
        ),
        ({"positions": [[0, 0, 0], [1, 1]]}, DataError, "frame 0: positions cannot be read as an array"),
        ({"cell": [4.0, 4.0, 4.0]}, DataError, r"frame 0: cell: found shape \(1, 3\), expected \(3, 3\)"),
        ({"cell": 4.0}, DataError, r"frame 0: cell: found shape \(\), expected \(3, 3\)"),
        ({"periodic": True}, DataError, "frame 0: periodic is True, expected three booleans"),
        ({"types": [0, 1]}, DataError, "frame 0: 2 types for 4 positions: one type an atom is expected"),
        (
            {"positions": POSITIONS * [[1], [1], [np.nan], [1]]},
            DataError,
            "frame 0: the position of atom 2 is not finite",
        ),
        ({"positions": POSITIONS * 0}, DataError, "atoms 0 and 1 share the position"),
        ({"cell": np.zeros((3, 3))}, DataError, "too short or parallel"),
        ({"cell": np.full((3, 3), np.inf)}, DataError, "needs a finite 3 × 3 cell"),
        ({"cell": None, "periodic": (True, False, False)}, DataError, "needs a finite 3 × 3 cell"),
        ({"fparam": [1.0]}, ModelError, "frame 0: tiny model takes no fparam: leave it out"),
        ({"box": CELL, "spin": POSITIONS}, ModelError, "frame 0: tiny model takes no box, spin: leave it out"),
    ],
)
def test_wrong_input(potential, changes, kind, message):
    frame = {"positions": POSITIONS, "types": TYPES, "cell": CELL} | changes
    with pytest.raises(kind, match=message) as caught:
        potential.evaluate(**frame)
    assert "\n" not in str(caught.value)


def test_frames_need_positions_and_types(potential):
    with pytest.raises(DataError, match="frame 0 has no types: both are needed"):
        potential.evaluate_many([{"positions": POSITIONS}])
    with pytest.raises(DataError, match="frame 0 has no positions and no types"):
        potential.evaluate_many([{}])


def test_errors_name_the_frame(potential):
    good = {"positions": POSITIONS, "types": TYPES}
    with pytest.raises(ModelError, match="frame 2: element 'X'"):
        potential.evaluate_many([good, good, good | {"types": ["O", "X", "O", "O"]}])


def test_inputs_that_are_none_are_absent(potential):
    same(
        potential.evaluate(POSITIONS, TYPES, fparam=None, aparam=None, spin=None, charge_spin=None),
        potential.evaluate(POSITIONS, TYPES),
    )


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_load(tmp_path, dtype):
    path = save_model(ModelConfig.tiny().build(2), tmp_path / "model.safetensors")
    potential = dpsim.load(path, device="cpu", dtype=dtype)
    assert isinstance(potential, dpsim.Potential)
    assert potential.dtype == (dtype or "float64")
    found = potential.evaluate(POSITIONS, TYPES, CELL)
    expected = load(str(path)).evaluate(POSITIONS, TYPES, CELL)
    tolerance = 1e-5 if dtype == "float32" else 0
    np.testing.assert_allclose(found.energy, expected.energy, rtol=tolerance)
    np.testing.assert_allclose(found.forces, expected.forces, atol=10 * tolerance * np.abs(expected.forces).max())
    assert found.forces.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_converts_both_parts_of_a_model(tmp_path, dtype):
    path = save_model(ModelConfig.tiny().build(2).with_precision("float64", "float32"), tmp_path / "mixed.safetensors")
    assert load(path).dtype == "float32"
    engine = load(path, dtype=dtype)._engine
    assert {p.dtype for p in engine.model.parameters()} == {getattr(torch, dtype)}
