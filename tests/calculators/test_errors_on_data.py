"""Errors on data sets: numbers worked out by hand from what a model says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.errors_on_data import evaluate_dataset
from dpsim.calculators.evaluate import Potential
from dpsim.data import Frame, write_mixed
from dpsim.data.files import read_json
from dpsim.descriptors import SeE2AConfig
from dpsim.errors import DataError
from dpsim.fittings import DipoleFittingConfig, PropertyFittingConfig
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig
from dpsim.testing import Subject

OFFSETS = {"energy": 0.3, "forces": 0.1, "virial": 0.6}
"""By how much the labels exceed what the model says: per frame, per component, per component."""


@pytest.fixture(scope="module")
def model():
    return ModelConfig.tiny().build(3)


@pytest.fixture
def file(model, tmp_path):
    return save_model(model, tmp_path / "model.safetensors")


def labelled(model, n, seed, *, without=()):
    """A frame whose labels differ from the model by `OFFSETS`."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 5.0
    positions, types = rng.uniform(0, 5, (n, 3)), rng.integers(0, 2, n)
    found = Potential(ModuleEngine(model, "cpu"), "model").evaluate(positions, types, cell)
    labels = {k: getattr(found, k) + offset for k, offset in OFFSETS.items() if k not in without}
    labels = {k: np.asarray(v) for k, v in labels.items()}
    return Frame(positions, types, cell, labels, "x")


def write(folder: Path, frames: list[Frame]) -> Path:
    write_mixed(frames, folder, ("O", "H"))
    return folder


def test_errors_are_those_of_the_labels(model, file, tmp_path):
    data = write(tmp_path / "data", [labelled(model, 4, 0), labelled(model, 4, 1), labelled(model, 6, 2)])
    metrics = evaluate_dataset(file, [data], tmp_path / "out")
    assert read_json(tmp_path / "out" / "metrics.json") == metrics
    overall = metrics["overall"]
    assert (overall["frames"], overall["atoms"]) == (3, 14)
    assert overall["forces_rmse"] == pytest.approx(0.1, rel=1e-9)
    per_atom = np.array([0.3 / 4, 0.3 / 4, 0.3 / 6])
    assert overall["energy_rmse"] == pytest.approx(np.sqrt(np.mean(per_atom**2)), rel=1e-6)
    assert overall["energy_mae"] == pytest.approx(per_atom.mean(), rel=1e-6)
    assert overall["virial_mae"] == pytest.approx(2 * per_atom.mean(), rel=1e-6)
    assert len(metrics["systems"]) == 2
    with np.load(tmp_path / "out" / "parity.npz") as parity:
        assert parity["forces_reference"].shape == parity["forces_predicted"].shape == (14, 3)
        np.testing.assert_allclose(parity["forces_reference"] - parity["forces_predicted"], 0.1, atol=1e-9)
        assert parity["energy_reference"].shape == (3,)
        assert parity["virial_system"].tolist() == sorted(parity["virial_system"].tolist())
        assert len(parity["virial_system"]) == 3


def test_errors_by_group(model, file, tmp_path):
    frames = [labelled(model, 4, 0), labelled(model, 4, 1), labelled(model, 6, 2)]
    frames = [replace(frame, origin=name) for frame, name in zip(frames, "aba", strict=True)]
    frames[1].labels["forces"][:] += 1.0 * (frames[1].types == 1)[:, None]  # of hydrogen
    data = write(tmp_path / "data", frames)
    groups = evaluate_dataset(file, [data], group_by="source")["groups"]
    assert {name: (one["frames"], one["atoms"]) for name, one in groups.items()} == {"a": (2, 10), "b": (1, 4)}
    assert groups["a"]["forces_rmse"] == pytest.approx(0.1, rel=1e-6)
    assert groups["b"]["energy_mae"] == pytest.approx(0.3 / 4, rel=1e-6)
    elements = evaluate_dataset(file, [data], group_by="element")["groups"]
    assert elements["O"]["forces_mae"] == pytest.approx(0.1, rel=1e-6)
    assert elements["H"]["forces_mae"] > 0.2
    assert "energy_mae" not in elements["H"]
    assert elements["O"]["atoms"] + elements["H"]["atoms"] == 14
    by_formula = evaluate_dataset(file, [data], group_by="formula")["groups"]
    assert set(by_formula) == {frame.formula(("O", "H")) for frame in frames}
    assert "groups" not in evaluate_dataset(file, [data])


def test_labels_that_are_missing_do_not_count(model, file, tmp_path):
    write(tmp_path / "data" / "all", [labelled(model, 4, 0)])
    write(tmp_path / "data" / "energies", [labelled(model, 5, 1, without=("forces", "virial"))])
    overall = evaluate_dataset(file, [tmp_path / "data"])["overall"]
    assert overall["frames"] == 2
    assert overall["forces_rmse"] == pytest.approx(0.1, rel=1e-9)
    write(tmp_path / "bare", [labelled(model, 4, 2, without=tuple(OFFSETS))])
    with pytest.raises(DataError, match="no frame has one of the labels energy, forces, virial to compare with"):
        evaluate_dataset(file, [tmp_path / "bare"])


def test_systems_of_the_same_name_all_count(model, file, tmp_path):
    """As those of the parts ``test`` of two data sets."""
    parts = [write(tmp_path / name / "test", [labelled(model, 4, seed)]) for seed, name in enumerate("ab")]
    metrics = evaluate_dataset(file, parts)
    assert metrics["overall"]["frames"] == 2
    first, second = metrics["systems"]
    assert second == f"{first} (2)"


def test_placeholders_do_not_make_errors_smaller(model, file, tmp_path):
    frame = labelled(model, 4, 0)
    data = write(tmp_path / "data", [frame])
    (folder,) = {path.parent for path in data.rglob("type.raw")}
    (part,) = folder.glob("set.*")
    (folder / "type.raw").write_text("0\n" * 6)
    for name, fill in (("coord", 0.0), ("force", 0.0)):
        values = np.load(part / f"{name}.npy").reshape(1, 4, 3)
        np.save(part / f"{name}.npy", np.concatenate([values, np.full((1, 2, 3), fill)], axis=1).reshape(1, -1))
    types = np.load(part / "real_atom_types.npy")
    np.save(part / "real_atom_types.npy", np.append(types, [[-1, -1]], axis=1).astype(types.dtype))
    overall = evaluate_dataset(file, [data])["overall"]
    assert overall["atoms"] == 4
    assert overall["forces_rmse"] == pytest.approx(0.1, rel=1e-9)
    assert overall["energy_rmse"] == pytest.approx(0.3 / 4, rel=1e-6)


def tensor_model(fitting, **changes):
    config = ModelConfig(type_map=("O", "H"), descriptor=SeE2AConfig.tiny(), fitting=fitting, **changes)
    return Subject.from_config(config).model


def offset_labels(model, n, seed, offset, **inputs):
    """A frame whose labels exceed what a model says by the same number everywhere."""
    rng = np.random.default_rng(seed)
    positions, types = rng.uniform(0, 4, (n, 3)), rng.integers(0, 2, n)
    found = Potential(ModuleEngine(model, "cpu"), "model").evaluate(positions, types, **inputs)
    names = [name for name in (model.output, f"atomic_{model.output}") if name != "atomic_property"]
    labels = {name: np.asarray(getattr(found, name)) + offset for name in names}
    return Frame(positions, types, None, labels | {name: np.asarray(value) for name, value in inputs.items()})


def test_errors_of_dipoles(tmp_path):
    """The sum is compared per atom, atoms without a dipole of their own do not count, parameters are passed on."""
    fitting = DipoleFittingConfig.tiny().model_copy(update={"numb_fparam": 2})
    model = tensor_model(fitting, atom_exclude_types=(1,))
    frames = [offset_labels(model, n, n, 0.6, fparam=[0.1 * n, 0.2]) for n in (4, 6)]
    metrics = evaluate_dataset(save_model(model, tmp_path / "m.safetensors"), [write(tmp_path / "d", frames)], tmp_path)
    overall = metrics["overall"]
    oxygens = np.array([(frame.types == 0).sum() for frame in frames])
    assert overall["atomic_dipole_mae"] == pytest.approx(0.6)
    assert overall["dipole_mae"] == pytest.approx(np.mean(0.6 / oxygens))
    parity = np.load(tmp_path / "parity.npz")
    assert parity["atomic_dipole_reference"].shape == (oxygens.sum(), 3)
    assert "energy_reference" not in parity


def test_errors_of_a_mean_are_not_divided(tmp_path):
    model = tensor_model(PropertyFittingConfig.tiny())
    folder = write(tmp_path / "d", [offset_labels(model, 5, 0, 0.5)])
    for path in folder.rglob("property.npy"):
        path.rename(path.with_name("gap.npy"))
    metrics = evaluate_dataset(save_model(model, tmp_path / "m.safetensors"), [folder])
    assert metrics["overall"]["property_rmse"] == pytest.approx(0.5)
