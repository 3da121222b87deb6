"""Training with electrostatics: labels without it, models that hold both parts, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsim.calculators.evaluate import load
from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.errors import ConfigError, DataError, ModelError
from dpsim.fittings import DipoleFittingConfig
from dpsim.model.base import Model
from dpsim.model.checkpoint import load_model, save_model
from dpsim.model.compose.dplr import DPLRModel
from dpsim.model.config import ModelConfig
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.trainer import TrainResult, train

Settings = Callable[..., TrainConfig]
TYPE_MAP = ("Cu", "Au")
CHARGES = {"model_charge_map": {"Cu": -2.0}, "sys_charge_map": {"Cu": 1.5, "Au": 0.5}}


@pytest.fixture(scope="module")
def wannier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dipole model in a file."""
    base = ModelConfig.tiny()
    config = base.model_copy(update={"type_map": TYPE_MAP, "fitting": DipoleFittingConfig.tiny()})
    return save_model(config.build(5), tmp_path_factory.mktemp("dw") / "dipole.safetensors")


def section(settings: Settings, wannier: Path, **changes: Any) -> dict[str, Any]:
    part = settings().model_dump(mode="json")["model"]
    return {"type": "dplr", "model": part, "dipole": str(wannier), **CHARGES} | changes


def run(config: TrainConfig, data: Path, folder: Path, **options: Any) -> TrainResult:
    return train(config, folder, train_data=data, **options)


def first_errors(folder: Path) -> dict[str, float]:
    with (folder / "lcurve.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    return {name: float(row[f"rmse_{name}_train"]) for name in ("energy", "forces", "virial")}


@pytest.fixture
def teacher(settings: Settings, wannier: Path) -> Model:
    """A model with electrostatics and random short-range parameters."""
    config = resolve_model(settings(model=section(settings, wannier)), TYPE_MAP)
    model: Model = config.build(7)
    model.get_submodule("models.1").load_state_dict(load_model(wannier).state_dict())
    return model


def labelled(teacher: Model, emt: Path, folder: Path) -> tuple[Path, Path]:
    """The data set with labels of the teacher, electrostatics included, and the teacher's file."""
    path = save_model(teacher, folder / "teacher.safetensors")
    potential, frames = load(path), []
    for frame in open_dataset(emt / "train", TYPE_MAP):
        p = potential.evaluate(frame.positions, frame.types, frame.cell)
        labels = {"energy": np.array(p.energy), "forces": p.forces, "virial": p.virial}
        frames.append(Frame(frame.positions, frame.types, frame.cell, labels))
    write_mixed(frames, folder / "data", TYPE_MAP)
    return folder / "data", path


def test_labels_lack_the_electrostatics(teacher: Model, emt: Path, tmp_path: Path, settings: Settings) -> None:
    """The short-range part that made the labels has no error on what is left of them."""
    data, path = labelled(teacher, emt, tmp_path)
    config = settings(model=None, steps=1, learning_rate={"start": 1e-12})
    run(config, data, tmp_path / "t", init_model=path)
    assert max(first_errors(tmp_path / "t").values()) < 1e-9
    plain = save_model(load_model(path).get_submodule("models.0"), tmp_path / "short.safetensors")  # type: ignore[arg-type]
    run(config, data, tmp_path / "u", init_model=plain)
    assert min(first_errors(tmp_path / "u").values()) > 1e-3


def test_both_parts_are_in_the_file(emt: Path, tmp_path: Path, settings: Settings, wannier: Path) -> None:
    config = settings(model=section(settings, wannier))
    result = run(config, emt / "train", tmp_path / "t", valid_data=emt / "valid")
    model = load_model(result.best)
    assert isinstance(model, DPLRModel)
    for name, tensor in load_model(wannier).state_dict().items():
        assert torch.equal(model.get_submodule("models.1").state_dict()[name], tensor), name
    fresh = resolve_model(config, TYPE_MAP).build(config.seed).get_submodule("models.0")
    moved = [n for n, p in model.get_submodule("models.0").named_parameters() if not p.equal(fresh.get_parameter(n))]
    assert len(moved) > 20
    frame = open_dataset(emt / "valid", TYPE_MAP)[0]
    whole = load(result.best).evaluate(frame.positions, frame.types, frame.cell)
    short = save_model(model.get_submodule("models.0"), tmp_path / "short.safetensors")  # type: ignore[arg-type]
    alone = load(short).evaluate(frame.positions, frame.types, frame.cell)
    assert whole.energy is not None
    assert alone.energy is not None
    assert abs(whole.energy - alone.energy) > 1e-3


def test_a_stopped_training_goes_on_the_same(emt: Path, tmp_path: Path, settings: Settings, wannier: Path) -> None:
    from dpsim.errors import Interrupted

    config = settings(model=section(settings, wannier))
    whole = run(config, emt / "train", tmp_path / "a")
    asked = iter([False, False, False, True])
    with pytest.raises(Interrupted):
        run(config, emt / "train", tmp_path / "b", stop=lambda: next(asked, True))
    wannier_gone = settings(model=section(settings, wannier))
    again = run(wannier_gone, emt / "train", tmp_path / "b")
    first, second = load_model(whole.last).state_dict(), load_model(again.last).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_charges_by_list(settings: Settings, wannier: Path) -> None:
    """In the order of the elements with dipoles, and of the type map."""
    lists = {"model_charge_map": [-2.0, -1.0], "sys_charge_map": [1.5, 0.5]}
    config = resolve_model(settings(model=section(settings, wannier, **lists)), TYPE_MAP)
    assert config.model_charge_map == {"Cu": -2.0, "Au": -1.0}
    assert config.sys_charge_map == {"Cu": 1.5, "Au": 0.5}
    with pytest.raises(ConfigError, match="model_charge_map has 1 charges, expected one for each of Cu, Au"):
        resolve_model(settings(model=section(settings, wannier, model_charge_map=[-2.0])), TYPE_MAP)


def test_what_does_not_fit(emt: Path, tmp_path: Path, settings: Settings, wannier: Path) -> None:
    def attempt(**changes: Any) -> None:
        run(settings(model=section(settings, wannier, **changes), steps=1), emt / "train", tmp_path / "t")

    with pytest.raises(ModelError, match="there is no such model file"):
        attempt(dipole=str(tmp_path / "no.safetensors"))
    with pytest.raises(ConfigError, match=r"sys_charge_map has \['Cu'\]"):
        attempt(sys_charge_map={"Cu": 1.0})
    energies = save_model(
        ModelConfig.tiny().model_copy(update={"type_map": TYPE_MAP}).build(0), tmp_path / "e.safetensors"
    )
    with pytest.raises(ConfigError, match="part 1 predicts 'energy', expected 'dipole'"):
        attempt(dipole=str(energies))
    loss = {"atomic_energy": [1, 1]}
    with pytest.raises(ConfigError, match=r"loss\.atomic_energy: the labels of atoms"):
        run(settings(model=section(settings, wannier), loss=loss), emt / "train", tmp_path / "t")
    write_mixed(
        [Frame(np.eye(3) * 2, np.array([0, 0, 1]), None, {"energy": np.array(1.0)})], tmp_path / "open", TYPE_MAP
    )
    loss = {"forces": "off", "virial": "off"}
    with pytest.raises(DataError, match="the frame is not periodic, which electrostatics needs"):
        run(settings(model=section(settings, wannier), loss=loss), tmp_path / "open", tmp_path / "t")
