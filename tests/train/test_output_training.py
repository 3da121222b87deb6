"""Training of dipoles, tensors, densities, properties and populations: what is taken from the data, and that it learns.

Labels are those of a model with other parameters, so that they can be learned.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.data import Frame, write_mixed, write_npy
from dpsim.descriptors import SeE2AConfig
from dpsim.errors import ConfigError, DataError
from dpsim.model.checkpoint import load_model
from dpsim.testing import Subject
from dpsim.train.batches.frames import FrameSet
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import TrainResult, train

TYPE_MAP = ("O", "H")
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dipole": ({"type": "dipole"}, {"type": "tensor", "total": 1, "atomic": 1}),
    "polarizability": ({"type": "polar"}, {"type": "tensor", "total": 1, "atomic": 1}),
    "polarizability, full": ({"type": "polar", "fit_diag": False}, {"type": "tensor", "total": 1}),
    "dos": ({"type": "dos", "numb_dos": 4}, {"type": "dos", "dos": 1}),
    "property": ({"type": "property", "property_name": "gap", "task_dim": 2}, {"type": "property"}),
    "property, mean": (
        {"type": "property", "property_name": "gap", "intensive": True, "distinguish_types": False},
        {"type": "property", "function": "mse"},
    ),
    "population": ({"type": "population"}, {"type": "population"}),
}


def settings(kind: str, **changes: Any) -> TrainConfig:
    fitting, loss = KINDS[kind]
    fitting = {"neuron": [12, 12], "activation_function": "tanh", **fitting}
    base: dict[str, Any] = {
        "model": {"descriptor": SeE2AConfig.tiny(), "fitting": fitting}, "loss": loss, "steps": 80, "batch_size": 4,
        "learning_rate": {"start": 0.02, "stop": 1e-3}, "log_every": 20, "validate_every": 40, "checkpoint_every": 80,
    }  # fmt: skip
    return TrainConfig(**base | changes)


def with_bias(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    assert config.model is not None
    return config.model_copy(update={"model": config.model.model_copy(update={"preset_out_bias": given})})


def teacher_of(config: TrainConfig) -> Potential:
    assert config.model is not None
    model = config.model.resolve(TYPE_MAP, None)
    subject = Subject.from_config(model, seed=9)
    return subject.potential


def labelled(teacher: Potential, number: int, seed: int) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(number):
        n = 3 + k % 3
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * 1.7
        types = rng.permutation(np.arange(n) % 2)
        positions = grid + rng.uniform(-0.3, 0.3, grid.shape)
        inputs = parameters(teacher, n, rng)
        found = teacher.evaluate(positions, types, **inputs)
        name = teacher.facts.output
        labels = {name: getattr(found, name), f"atomic_{name}": getattr(found, f"atomic_{name}")}
        labels.pop("atomic_property" if name == "property" else "population", None)
        frames.append(Frame(positions, types, None, labels | inputs))
    return frames


def parameters(teacher: Potential, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    inputs = teacher.facts.inputs
    found = {"fparam": rng.normal(5, 2, inputs.n_fparam), "aparam": rng.normal(-1, 0.5, (n, inputs.n_aparam))}
    return {name: value for name, value in found.items() if value.shape[-1]}


def write(frames: list[Frame], folder: Path, property_name: str) -> Path:
    """As others write them: a property lies in the file of its name."""
    write_mixed(frames, folder, TYPE_MAP)
    for path in folder.rglob("property.npy"):
        path.rename(path.with_name(f"{property_name}.npy"))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrainResult]:
    def make(config: TrainConfig, **options: Any) -> TrainResult:
        teacher = teacher_of(config)
        for name, number in (("train", 24), ("valid", 8)):
            if not (tmp_path / name).is_dir():
                write(labelled(teacher, number, len(name)), tmp_path / name, "gap")
        paths = {"train_data": tmp_path / "train", "valid_data": tmp_path / "valid", "type_map": TYPE_MAP}
        return train(config, tmp_path / "run", **{**paths, **options})

    return make


def rows(result: TrainResult) -> list[dict[str, str]]:
    with result.curve.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(run: Callable[..., TrainResult], kind: str) -> None:
    config = settings(kind, steps=200 if kind == "property, mean" else 80)
    result = run(config)
    table = rows(result)
    assert float(table[-1]["loss"]) < 0.5 * float(table[0]["loss"])
    shown = [name for name in table[0] if name.endswith("_train")]
    assert all(float(table[-1][name]) < float(table[0][name]) for name in shown if table[0][name])
    output = kind.split(",")[0]
    best = result.metrics["best"]
    error = best[f"rmse_{'atomic_population' if output == 'population' else output}"]
    assert error < float(table[0][shown[0]])
    assert load(result.best, device="cpu").outputs == {output}
    again = run(config)  # a finished training is left as it is
    assert again.metrics["best"] == best


def test_validation_errors_are_those_of_the_model(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    result = run(settings("polarizability", steps=4, validate_every=4))
    potential, sums = load(result.last, device="cpu"), {"total": [], "atomic": []}
    for frame in FrameSet(tmp_path / "valid", TYPE_MAP).dataset:
        found = potential.evaluate(frame.positions, frame.types)
        sums["total"].append((found.polarizability - frame.labels["polarizability"]).ravel() / frame.n_atoms)
        sums["atomic"].append((found.atomic_polarizability - frame.labels["atomic_polarizability"]).ravel())
    last = rows(result)[-1]
    for name, quantity in (("total", "polarizability"), ("atomic", "atomic_polarizability")):
        expected = np.sqrt(np.mean(np.concatenate(sums[name]) ** 2))
        assert float(last[f"rmse_{quantity}_valid"]) == pytest.approx(expected, rel=1e-6)


def test_frames_may_lack_one_of_the_labels(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    """Some have the sum, some the values of their atoms, as the published tensors of water."""
    config = settings("dipole", steps=3)
    frames = labelled(teacher_of(config), 6, 0)
    keep = [{"dipole"}, {"atomic_dipole"}]
    parts = [
        Frame(f.positions, f.types, None, {k: v for k, v in f.labels.items() if k in keep[i % 2]})
        for i, f in enumerate(frames)
    ]
    write_mixed(parts, tmp_path / "train", TYPE_MAP)
    result = run(config, valid_data=None)
    assert result.metrics["labels"]["train"] == {"dipole": 3, "atomic_dipole": 3}


@pytest.mark.parametrize("kind", ["polarizability", "dos"])
@pytest.mark.parametrize("atomic", [False, True])
def test_bias_from_the_data(run: Callable[..., TrainResult], tmp_path: Path, kind: str, atomic: bool) -> None:
    """From the labels of atoms where there are any, type by type, else a fit of the sums by composition."""
    loss = {"polarizability": {"type": "tensor", "total": 1}, "dos": {"type": "dos", "dos": 1, "atomic_dos": "off"}}
    config = settings(kind, steps=1, loss=loss[kind], learning_rate={"start": 1e-12})
    frames = labelled(teacher_of(config), 9, 0)
    if not atomic:
        frames = [Frame(f.positions, f.types, None, {kind: f.labels[kind]}) for f in frames]
    write_mixed(frames, tmp_path / "train", TYPE_MAP)
    model = load_model(run(config, valid_data=None).last)
    if atomic:
        types = np.concatenate([f.types for f in frames])
        values = np.concatenate([f.labels[f"atomic_{kind}"].reshape(f.n_atoms, -1) for f in frames])
        bias = np.stack([values[types == t].mean(0) for t in (0, 1)])
        std = np.stack([values[types == t].std(0) for t in (0, 1)])
    else:
        counts = np.array([np.bincount(f.types, minlength=2) for f in frames], dtype=float)
        values = np.array([f.labels[kind].ravel() for f in frames])
        bias = np.linalg.lstsq(counts, values, rcond=None)[0]
        std = np.tile((values - counts @ bias).std(0), (2, 1))
    np.testing.assert_allclose(model.out_bias.reshape(2, -1), bias, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.out_std.reshape(2, -1), std, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "atomic"),
    [("polarizability", False), ("polarizability", True), ("dos", False), ("dos", True), ("property", False)],
)
def test_given_bias(run: Callable[..., TrainResult], tmp_path: Path, kind: str, atomic: bool) -> None:
    """What is given for an element stays as it is; what it explains is not explained by the other."""
    loss = {"polarizability": {"type": "tensor", "total": 1}, "dos": {"type": "dos", "dos": 1, "atomic_dos": "off"}}
    plain = settings(kind, steps=1, learning_rate={"start": 1e-12}, **({"loss": loss[kind]} if kind in loss else {}))
    teacher = teacher_of(plain)
    frames, output = labelled(teacher, 9, 0), teacher.facts.output
    if not atomic:
        frames = [dataclasses.replace(f, labels={k: v for k, v in f.labels.items() if not k.startswith("atomic_")})
                  for f in frames]  # fmt: skip
    write(frames, tmp_path / "train", "gap")
    size = math.prod(teacher.facts.output_shape)
    given = tuple(np.linspace(0.5, 1.5, size).tolist())
    config = with_bias(plain, {TYPE_MAP[1]: given})
    found = load_model(run(config, valid_data=None).last).out_bias.reshape(2, -1).numpy()
    np.testing.assert_allclose(found[1], given, rtol=1e-12)
    if atomic:
        rows = np.concatenate([f.labels[f"atomic_{output}"].reshape(f.n_atoms, -1)[f.types == 0] for f in frames])
        expected = rows.mean(0)
    else:
        counts = np.array([np.bincount(f.types, minlength=2) for f in frames], dtype=float)
        rest = np.array([f.labels[output].ravel() for f in frames]) - counts[:, 1:] * given
        expected = np.linalg.lstsq(counts[:, :1], rest, rcond=None)[0][0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("dipole", {"O": (1.0, 2.0, 3.0)}, "the model predicts dipole, which has no output bias"),
        ("dos", {"O": (1.0, 2.0)}, r"preset_out_bias\.O: found 2 numbers, expected \d+: as many as the dos of an atom"),
        ("property, mean", {"O": 1.0}, "the property has one bias for all elements"),
        ("polarizability", {"X": (0.0,) * 9}, "preset_out_bias: 'X' is not in the type map"),
    ],
)
def test_bias_that_cannot_be_given(run: Callable[..., TrainResult], kind: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(with_bias(settings(kind, steps=1), given))


@pytest.mark.parametrize("kind", ["dipole", "population"])
def test_outputs_without_a_bias(run: Callable[..., TrainResult], kind: str) -> None:
    model = load_model(run(settings(kind, steps=1)).last)
    assert not model.out_bias.any()


def test_scales_of_parameters(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    """Mean and deviation over frames and over atoms; what hardly varies is not blown up."""
    fitting = {"type": "dipole", "neuron": [6], "numb_fparam": 2, "numb_aparam": 1}
    config = settings("dipole", steps=2, model={"descriptor": SeE2AConfig.tiny(), "fitting": fitting})
    frames = labelled(teacher_of(config), 8, 0)
    for frame in frames:
        frame.labels["fparam"][1] = 3.0  # type: ignore[index]
    write_mixed(frames, tmp_path / "train", TYPE_MAP)
    result = run(config)
    model: Any = load_model(result.last)
    frame_values = np.stack([f.labels["fparam"] for f in frames])
    atom_values = np.concatenate([f.labels["aparam"] for f in frames])
    np.testing.assert_allclose(model.fitting.fparam_mean, frame_values.mean(0), rtol=1e-10)
    np.testing.assert_allclose(model.fitting.fparam_inv_std, [1 / frame_values[:, 0].std(), 100.0], rtol=1e-7)
    np.testing.assert_allclose(model.fitting.aparam_mean, atom_values.mean(0), rtol=1e-10)
    np.testing.assert_allclose(model.fitting.aparam_inv_std, 1 / atom_values.std(0), rtol=1e-7)


def energies(tmp_path: Path, **labels: np.ndarray) -> Path:
    """Four frames with an energy, and what else is named."""
    frames = [
        Frame(f.positions, f.types, None, {"energy": np.array(-3.0), **labels})
        for f in labelled(teacher_of(settings("dipole")), 4, 0)
    ]
    write_mixed(frames, tmp_path / "train", TYPE_MAP)
    return tmp_path / "train"


def energy_settings(**fitting: Any) -> TrainConfig:
    model = {"descriptor": SeE2AConfig.tiny(), "fitting": {"neuron": [6], **fitting}}
    return settings("dipole", model=model, loss={"forces": "off"}, steps=2)


def test_default_parameters_stand_in(tmp_path: Path) -> None:
    folder = energies(tmp_path)
    with pytest.raises(
        DataError, match=r"takes fparam \(2 numbers\), and 4 of 4 frames of the training data have none"
    ):
        train(energy_settings(numb_fparam=2), tmp_path / "a", train_data=folder)
    train(energy_settings(numb_fparam=2, default_fparam=[1.0, 2.0]), tmp_path / "b", train_data=folder)


def test_parameters_of_another_number(tmp_path: Path) -> None:
    folder = energies(tmp_path, fparam=np.ones(3))
    with pytest.raises(DataError, match="fparam has 3 numbers in the training data, and 2 in the model's settings"):
        train(energy_settings(numb_fparam=2), tmp_path / "a", train_data=folder)


def test_labels_of_another_number(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    run(settings("dos", steps=1))
    fitting = {"type": "dos", "neuron": [6], "numb_dos": 7}
    config = settings("dos", steps=1, model={"descriptor": SeE2AConfig.tiny(), "fitting": fitting})
    with pytest.raises(DataError, match=r"dos has 4 numbers in the training data, and 7 in the model's settings"):
        train(config, tmp_path / "other", train_data=tmp_path / "train", type_map=TYPE_MAP)


def test_missing_labels_are_named(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    run(settings("dipole", steps=1))
    with pytest.raises(DataError, match=r"loss\.atomic: .* has the label 'atomic_polarizability'.*`atomic: 0`"):
        train(
            settings("polarizability", loss={"type": "tensor", "atomic": 1}),
            tmp_path / "x",
            train_data=tmp_path / "train",
        )
    with pytest.raises(ConfigError, match=r"loss\.type: mse is for energy, and the model predicts dipole"):
        train(settings("dipole", loss={}), tmp_path / "y", train_data=tmp_path / "train")


def test_selected_types_alone_are_trained(tmp_path: Path) -> None:
    """Wannier centres: labels of one type, the others are excluded and do not enter the error."""
    config = settings("dipole", steps=1, loss={"type": "tensor", "atomic": 1}, learning_rate={"start": 1e-12})
    frames = labelled(teacher_of(config), 3, 0)[:1] * 3
    write_npy(frames, tmp_path / "train", TYPE_MAP)
    (path,) = (tmp_path / "train").rglob("atomic_dipole.npy")
    oxygen = frames[0].types == 0
    np.save(path, np.load(path).reshape(3, -1, 3)[:, oxygen].reshape(3, -1))
    model = config.model.model_copy(update={"atom_exclude_types": (1,)})  # type: ignore[union-attr]
    result = train(config.model_copy(update={"model": model}), tmp_path / "run", train_data=tmp_path / "train")
    found = load(result.last, device="cpu").evaluate(frames[0].positions, frames[0].types).atomic_dipole
    expected = np.mean((found[oxygen] - frames[0].labels["atomic_dipole"][oxygen]) ** 2)
    assert float(rows(result)[0]["loss"]) == pytest.approx(expected, rel=1e-5)


def test_spins(tmp_path: Path) -> None:
    """Forces on spins are learned, and atoms whose element has none do not count."""
    config = settings(
        "dipole",
        model={
            "type": "spin",
            "model": {"descriptor": SeE2AConfig.tiny(), "fitting": {"neuron": [6]}},
            "virtual_scale": {"O": 0.4},
        },
        loss={"energy": 1, "forces": 1, "virial": 1, "magnetic_forces": 1},
        steps=30,
    )
    assert config.model is not None
    teacher = Potential(ModuleEngine(config.model.resolve(TYPE_MAP, None).build(7), "cpu"), "teacher")
    rng, frames, unseen = np.random.default_rng(0), [], np.array([[0.0], [9.0], [0.0]])
    for _ in range(6):
        positions = np.eye(3) * 1.6 + rng.uniform(-0.2, 0.2, (3, 3))
        types, spin = np.array([0, 1, 0]), rng.normal(size=(3, 3))
        p = teacher.evaluate(positions, types, spin=spin)
        labels = {"energy": np.array(p.energy), "forces": p.forces, "virial": p.virial, "spin": spin}
        frames.append(Frame(positions, types, None, labels | {"magnetic_forces": p.magnetic_forces + unseen}))
    write_mixed(frames, tmp_path / "train", TYPE_MAP)
    result = train(config, tmp_path / "run", train_data=tmp_path / "train", type_map=TYPE_MAP)
    table = rows(result)
    assert float(table[-1]["loss"]) < 0.5 * float(table[0]["loss"])
    assert float(table[-1]["rmse_magnetic_forces_train"]) < 1.0  # the 9 of the atom without a spin is not seen
