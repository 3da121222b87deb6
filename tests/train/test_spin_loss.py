"""Training of spin models and with Hessians: their losses, and that they learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.errors_on_data import evaluate_dataset
from dpsim.calculators.evaluate import Potential, load
from dpsim.data import Frame, open_dataset, write_mixed, write_npy
from dpsim.errors import ConfigError, DataError
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.model.config import ModelConfig
from dpsim.model.peer.inputs.training import loss_settings
from dpsim.model.peer.section import InputSection
from dpsim.physics.derivatives import Derivatives
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import EnergyLossConfig, TrainConfig
from dpsim.train.loss import make_loss
from dpsim.train.loss.energy import EnergyLoss
from dpsim.train.trainer import train

TYPE_MAP = ("O", "H")
ALL = ("energy", "forces", "magnetic_forces", "virial", "hessian", "spin")


def teacher(config: Any, strength: float = 1.5) -> Potential:
    model = config.build(11).with_precision("float64")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= strength  # forces of some size
    return Potential(ModuleEngine(model, "cpu"), "teacher")


def make_frames(potential: Potential, number: int, seed: int, keep: tuple[str, ...] = ALL) -> list[Frame]:
    """Small crystals, of 3 and 4 atoms by turns, labelled by a model."""
    rng, frames = np.random.default_rng(seed), []
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    for k in range(number):
        n = 3 + k % 2
        cell = 3.2 * np.eye(3) + rng.normal(scale=0.05, size=(3, 3))
        frame = {"positions": sites[:n] @ cell + rng.normal(scale=0.08, size=(n, 3)), "types": np.arange(n) % 2,
                 "cell": cell}  # fmt: skip
        spins = rng.normal(size=(n, 3))
        spins *= rng.uniform(1.0, 1.5, (n, 1)) / np.linalg.norm(spins, axis=1, keepdims=True)
        inputs = frame if potential.facts.spin is None else {**frame, "spin": spins}
        p = potential.evaluate(**inputs)
        known = {"energy": np.array(p.energy), "forces": p.forces, "virial": p.virial, "spin": spins,
                 "magnetic_forces": p.magnetic_forces}  # fmt: skip
        if "hessian" in keep:
            known["hessian"] = potential.hessian(**inputs)
        labels = {name: value for name, value in known.items() if name in keep and value is not None}
        frames.append(Frame(frame["positions"], frame["types"], cell, labels))
    return frames


@pytest.fixture(scope="module")
def spin_frames() -> list[Frame]:
    return make_frames(teacher(SpinModelConfig.tiny()), 24, 0)


@pytest.fixture(scope="module")
def plain_frames() -> list[Frame]:
    return make_frames(teacher(ModelConfig.tiny(), 2.0), 4, 3)


def settings(spins: bool, **changes: Any) -> TrainConfig:
    part = {"descriptor": ModelConfig.tiny().descriptor.model_dump(), "fitting": {"neuron": [8, 8]}}
    model = {"type": "spin", "model": part, "virtual_scale": {"O": 0.3}} if spins else part
    base = {"model": model, "steps": 6, "batch_size": 4, "log_every": 1, "validate_every": 3}
    return TrainConfig.model_validate({**base, "precision": "float64", **changes})


def batch_of(model: Any, frames: list[Frame], folder: Path, loss: EnergyLossConfig) -> tuple[EnergyLoss, Any]:
    write_mixed(frames, folder, TYPE_MAP)
    made = make_loss(loss, model)
    assert isinstance(made, EnergyLoss)
    maker = BatchMaker.for_model(FrameSet(folder, TYPE_MAP), model, made.labels)
    return made, maker(range(len(frames)))


@pytest.mark.parametrize("kind", ["mse", "mae"])
def test_terms_of_spins(spin_frames: list[Frame], tmp_path: Path, kind: str) -> None:
    model = SpinModelConfig.tiny().build(0).with_precision("float64")
    config = EnergyLossConfig(type=kind, virial=1, magnetic_forces=(10, 1))
    loss, batch = batch_of(model, spin_frames[:3], tmp_path / "data", config)
    terms = loss.terms(loss.predict(batch, training=True), batch)
    measure = np.square if kind == "mse" else np.abs
    errors: dict[str, list[np.ndarray]] = {"forces": [], "magnetic_forces": []}
    potential = Potential(ModuleEngine(model, "cpu"), "")
    for frame in spin_frames[:3]:
        p = potential.evaluate(frame.positions, frame.types, frame.cell, spin=frame.labels["spin"])
        errors["forces"].append(measure(p.forces - frame.labels["forces"]))
        magnetic = measure(p.magnetic_forces - frame.labels["magnetic_forces"])
        errors["magnetic_forces"].append(magnetic[frame.types == 0])  # hydrogen has no spin
    for name, values in errors.items():
        assert (terms[name].total / terms[name].size).item() == pytest.approx(np.concatenate(values).mean(), rel=1e-10)


def test_without_magnetic_atoms_the_term_is_absent(spin_frames: list[Frame], tmp_path: Path) -> None:
    model = SpinModelConfig.tiny().build(0)
    frame = spin_frames[0]
    only = Frame(frame.positions, np.ones_like(frame.types), frame.cell, frame.labels)
    loss, batch = batch_of(model, [only], tmp_path / "data", EnergyLossConfig(magnetic_forces=1))
    assert "magnetic_forces" not in loss.terms(loss.predict(batch, training=True), batch)


def test_a_spin_model_learns(spin_frames: list[Frame], tmp_path: Path) -> None:
    write_mixed(spin_frames, tmp_path / "train", TYPE_MAP)
    loss = {"energy": [0.02, 1], "forces": [100, 1], "magnetic_forces": [1000, 10], "virial": [0.02, 0.1]}
    config = settings(True, steps=120, log_every=20, validate_every=120, loss=loss, learning_rate={"start": 0.003})
    result = train(config, tmp_path / "out", train_data=tmp_path / "train")
    rows = np.genfromtxt(result.curve, delimiter=",", names=True)
    for name in ("energy", "forces", "magnetic_forces", "virial"):
        column = rows[f"rmse_{name}_train"]
        assert column[-1] < 0.4 * column[0], name
    potential = load(result.last, device="cpu")
    assert potential.facts.spin == (0.3, 0.0)
    frame = spin_frames[0]
    p = potential.evaluate(frame.positions, frame.types, frame.cell, spin=frame.labels["spin"])
    known = frame.labels["magnetic_forces"]
    assert np.abs(p.magnetic_forces - known).max() < 0.5 * np.abs(known).max()


def test_bias_is_fitted_to_the_real_atoms(spin_frames: list[Frame], tmp_path: Path) -> None:
    shifted = [
        Frame(f.positions, f.types, f.cell, {**f.labels, "energy": (f.types == 0).sum() * -5.0 + (f.types == 1).sum()})
        for f in spin_frames[:6]
    ]
    write_mixed(shifted, tmp_path / "train", TYPE_MAP)
    result = train(settings(True, steps=1), tmp_path / "out", train_data=tmp_path / "train")
    assert result.metrics["energy_bias"] == pytest.approx({"O": -5.0, "H": 1.0})


def test_frames_without_spins_are_refused(spin_frames: list[Frame], tmp_path: Path) -> None:
    frames = [Frame(f.positions, f.types, f.cell, {"energy": f.labels["energy"]}) for f in spin_frames[:2]]
    write_mixed(frames, tmp_path / "train", TYPE_MAP)
    with pytest.raises(DataError, match="the model takes spins, and the frame has none"):
        train(settings(True, loss={"forces": "off"}), tmp_path / "out", train_data=tmp_path / "train")


def test_a_training_with_spins_can_be_continued(spin_frames: list[Frame], tmp_path: Path) -> None:
    write_mixed(spin_frames[:8], tmp_path / "train", TYPE_MAP)
    loss = {"magnetic_forces": [100, 1]}
    whole = train(settings(True, loss=loss), tmp_path / "a", train_data=tmp_path / "train")
    half = settings(True, loss=loss, checkpoint_every=3)
    calls = iter(range(100))
    with pytest.raises(Exception, match="step 3"):
        train(half, tmp_path / "b", train_data=tmp_path / "train", stop=lambda: next(calls) == 2)
    again = train(half, tmp_path / "b", train_data=tmp_path / "train")
    a, b = (load(path, device="cpu") for path in (whole.last, again.last))
    frame = spin_frames[0]
    inputs = {"positions": frame.positions, "types": frame.types, "cell": frame.cell, "spin": frame.labels["spin"]}
    assert a.evaluate(**inputs).energy == b.evaluate(**inputs).energy


@pytest.mark.parametrize("kind", ["mse", "mae"])
def test_term_of_hessians(plain_frames: list[Frame], tmp_path: Path, kind: str) -> None:
    model = ModelConfig.tiny().build(0).with_precision("float64")
    frames = [plain_frames[0], plain_frames[1], plain_frames[2]]
    without = {name: value for name, value in frames[2].labels.items() if name != "hessian"}
    frames[2] = Frame(frames[2].positions, frames[2].types, frames[2].cell, without)
    loss, batch = batch_of(model, frames, tmp_path / "data", EnergyLossConfig(type=kind, hessian=(0, 2)))
    predicted = loss.predict(batch, training=True)
    term = loss.terms(predicted, batch)["hessian"]
    measure = np.square if kind == "mse" else np.abs
    potential, means = Potential(ModuleEngine(model, "cpu"), ""), []
    for frame in frames[:2]:
        found = potential.hessian(frame.positions, frame.types, frame.cell)
        means.append(measure(found - frame.labels["hessian"]).mean())
    assert (term.total / term.size).item() == pytest.approx(np.mean(means), rel=1e-10)
    shown = loss.errors(loss.predict(batch, training=False), batch)
    assert "hessian" in shown
    assert not shown["hessian"].total.requires_grad


def test_atoms_of_excluded_types_do_not_enter_the_hessian_term(plain_frames: list[Frame], tmp_path: Path) -> None:
    config = ModelConfig.tiny().model_copy(update={"atom_exclude_types": (1,)})
    model = config.build(0).with_precision("float64")
    frame = plain_frames[0]
    loss, batch = batch_of(model, [frame], tmp_path / "data", EnergyLossConfig(hessian=1))
    term = loss.terms(loss.predict(batch, training=True), batch)["hessian"]
    found = Potential(ModuleEngine(model, "cpu"), "").hessian(frame.positions, frame.types, frame.cell)
    kept = np.repeat(frame.types == 0, 3)
    difference = (found - frame.labels["hessian"])[np.ix_(kept, kept)]
    assert (term.total / term.size).item() == pytest.approx(np.square(difference).mean(), rel=1e-10)


@pytest.mark.parametrize("spins", [False, True], ids=["plain", "spin"])
def test_gradient_of_a_loss_on_hessians(
    plain_frames: list[Frame], spin_frames: list[Frame], tmp_path: Path, spins: bool
) -> None:
    model = (SpinModelConfig if spins else ModelConfig).tiny().build(2).with_precision("float64")
    model.requires_grad_(True)
    frames = (spin_frames if spins else plain_frames)[:2]
    loss, batch = batch_of(model, frames, tmp_path / "data", EnergyLossConfig(hessian=1))

    def value() -> torch.Tensor:
        term = loss.terms(loss.predict(batch, training=True), batch)["hessian"]
        return term.total / term.size

    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slopes = torch.autograd.grad(value(), parameters, allow_unused=True)
    found = sum(float((g * d).sum()) for g, d in zip(slopes, directions, strict=True) if g is not None)
    values, step = [], 1e-5
    for s in (-2, -1, 1, 2):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += s * step * d
        values.append(value().item())
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= s * step * d
    expected = float(np.dot([1, -8, 8, -1], values)) / (12 * step)
    assert found == pytest.approx(expected, rel=1e-6)


def test_hessians_are_learnt(plain_frames: list[Frame], tmp_path: Path) -> None:
    write_mixed(plain_frames, tmp_path / "train", TYPE_MAP)
    write_mixed(plain_frames[:1], tmp_path / "valid", TYPE_MAP)
    loss = {"energy": "off", "forces": 1, "hessian": 10}
    config = settings(
        False, steps=20, batch_size=2, log_every=5, validate_every=20, loss=loss, learning_rate={"start": 0.01}
    )
    result = train(config, tmp_path / "out", train_data=tmp_path / "train", valid_data=tmp_path / "valid")
    rows = np.genfromtxt(result.curve, delimiter=",", names=True)
    assert rows["rmse_hessian_train"][-1] < 0.6 * rows["rmse_hessian_train"][0]
    assert rows["rmse_hessian_valid"][-1] < 0.6 * rows["rmse_hessian_train"][0]


def test_hessians_of_a_data_set(plain_frames: list[Frame], tmp_path: Path) -> None:
    """Placeholders of mixed systems are taken out of rows and columns; folders of one composition hold plain rows."""
    write_npy(plain_frames[:1], tmp_path / "plain", TYPE_MAP)
    (folder,) = (tmp_path / "plain").glob("*/set.000")
    assert np.load(folder / "hessian.npy").shape == (1, 81)
    write_mixed(plain_frames[:1], tmp_path / "mixed", TYPE_MAP)
    (folder,) = (tmp_path / "mixed").glob("*/set.000")
    types = np.load(folder / "real_atom_types.npy")
    types[0, 1] = -1
    np.save(folder / "real_atom_types.npy", types)
    frame = open_dataset(tmp_path / "mixed", TYPE_MAP)[0]
    kept = np.repeat([True, False, True], 3)
    np.testing.assert_array_equal(frame.labels["hessian"], plain_frames[0].labels["hessian"][np.ix_(kept, kept)])
    np.save(folder / "hessian.npy", np.zeros((1, 80)))
    with pytest.raises(DataError, match=r"hessian.npy has shape \(1, 80\), expected \(1, 81\): 3 atoms in type.raw"):
        open_dataset(tmp_path / "mixed", TYPE_MAP)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "huber", "hessian": 1}, "magnetic forces and hessian do not go with type: huber"),
        ({"magnetic_forces": [1, 0]}, r"magnetic_forces: \[1, 0\] has a zero"),
    ],
)
def test_wrong_losses(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EnergyLossConfig(**loss)


def test_magnetic_forces_of_a_model_without_spins(spin_frames: list[Frame], tmp_path: Path) -> None:
    write_mixed(spin_frames[:2], tmp_path / "train", TYPE_MAP)
    with pytest.raises(ConfigError, match=r"loss\.magnetic_forces has no effect on a model that takes no spins"):
        train(settings(False, loss={"magnetic_forces": 1}), tmp_path / "out", train_data=tmp_path / "train")


def test_spin_loss_of_the_peers_input() -> None:
    notes: list[str] = []
    given = {"type": "ener_spin", "start_pref_fr": 500, "limit_pref_fm": 5, "loss_func": "mae", "start_pref_v": 1}
    loss = EnergyLossConfig(**loss_settings(InputSection(given, "input.json: loss"), notes))
    assert loss.type == "mae"
    assert loss.active == {"energy": (0.02, 1.0), "forces": (500.0, 1.0), "magnetic_forces": (10000.0, 5.0)}
    assert notes == ["input.json: loss: start_pref_v or limit_pref_v is zero: the term is off"]
    with pytest.raises(ConfigError, match="'start_pref_f' is not known"):
        loss_settings(InputSection({"type": "ener_spin", "start_pref_f": 1}, "loss"), [])


def test_hessian_loss_of_the_peers_input() -> None:
    given = {"start_pref_h": 10.0, "limit_pref_h": 0.0}
    loss = EnergyLossConfig(**loss_settings(InputSection(given, "loss"), []))
    assert loss.active["hessian"] == (10.0, 0.0)
    assert json.loads(loss.model_dump_json())["hessian"] == [10.0, 0.0]
    assert "hessian" not in EnergyLossConfig().model_dump()


def test_predictions_have_no_hessian_unless_asked(plain_frames: list[Frame], tmp_path: Path) -> None:
    model = ModelConfig.tiny().build(0)
    loss, batch = batch_of(model, plain_frames[:1], tmp_path / "data", EnergyLossConfig())
    assert "hessian" not in batch.labels
    predicted = loss.predict(batch, training=True)
    assert isinstance(predicted, Derivatives)
    assert predicted.hessian is None


def test_errors_of_a_spin_model_on_data(spin_frames: list[Frame], tmp_path: Path) -> None:
    write_mixed(spin_frames[:4], tmp_path / "data", TYPE_MAP)
    exact = evaluate_dataset(teacher(SpinModelConfig.tiny()), [tmp_path / "data"])["overall"]
    assert exact["forces_rmse"] == pytest.approx(0.0, abs=1e-12)
    assert exact["magnetic_forces_rmse"] == pytest.approx(0.0, abs=1e-12)
    other = Potential(ModuleEngine(SpinModelConfig.tiny().build(3).with_precision("float64"), "cpu"), "other")
    found = evaluate_dataset(other, [tmp_path / "data"], tmp_path / "out")["overall"]
    known = np.concatenate([f.labels["magnetic_forces"][f.types == 0] for f in spin_frames[:4]])
    frames = [{"positions": f.positions, "types": f.types, "cell": f.cell, "spin": f.labels["spin"]}
              for f in spin_frames[:4]]  # fmt: skip
    predicted = [
        p.magnetic_forces[f.types == 0] for p, f in zip(other.evaluate_many(frames), spin_frames, strict=False)
    ]
    assert found["magnetic_forces_mae"] == pytest.approx(np.abs(np.concatenate(predicted) - known).mean(), rel=1e-10)
    with np.load(tmp_path / "out" / "parity.npz") as parity:
        assert parity["magnetic_forces_reference"].shape == known.shape
