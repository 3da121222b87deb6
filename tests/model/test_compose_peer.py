"""Pair tables, linear and ZBL models of DeePMD-kit: its inputs, its checkpoints, and damaged files."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.errors import ConfigError, ModelError
from dpsim.model.checkpoint import state_digest
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.config import ModelConfig
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context
from dpsim.model.peer.files.checkpoint import load_checkpoint
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.model.peer.inputs.auto_sel import resolve_sel
from dpsim.model.peer.inputs.input import read_input, translate_part
from dpsim.train.config import TrainConfig, resolve_model

TYPE_MAP = ("O", "H")
DESCRIPTOR = {
    "type": "dpa3",
    "repflow": {
        "n_dim": 6, "e_dim": 5, "a_dim": 4, "nlayers": 2, "e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 40,
        "a_rcut": 3.0, "a_rcut_smth": 2.5, "a_sel": 20, "axis_neuron": 2,
    },
    "precision": "float64",
}  # fmt: skip
FITTING = {"neuron": [6, 6], "precision": "float64"}


@pytest.fixture
def table(tmp_path):
    r = 0.05 + 0.05 * np.arange(60)
    np.savetxt(tmp_path / "table.txt", np.column_stack([r, np.exp(-r), 2 * np.exp(-r), 3 * np.exp(-r)]))
    return tmp_path / "table.txt"


def zbl_input(**changes):
    node = {"type_map": list(TYPE_MAP), "descriptor": DESCRIPTOR, "fitting_net": FITTING, "use_srtab": "table.txt"}
    return node | {"sw_rmin": 0.8, "sw_rmax": 2.4, "smin_alpha": 0.3} | changes


def linear_input(**changes):
    learned = {"descriptor": DESCRIPTOR, "fitting_net": FITTING}
    models = [learned, {"type": "pairtab", "tab_file": "table.txt", "rcut": 3.5, "sel": [10, 20]}]
    return {"type": "linear_ener", "type_map": list(TYPE_MAP), "models": models, "weights": "sum"} | changes


def settings_of(node, folder):
    return translate_part("model", json.loads(json.dumps(node)), "input", TYPE_MAP, folder)[0]


def resolved(settings):
    return resolve_model(TrainConfig(model=settings, steps=1), TYPE_MAP)


def test_zbl_input(table):
    """The table has the descriptor's cutoff and number of neighbours; in a training smin_alpha is honoured."""
    config = resolved(settings_of(zbl_input(pair_exclude_types=[[0, 0]]), table.parent))
    assert isinstance(config, ZBLModelConfig)
    assert (config.table.rcut, config.table.sel, config.smin_alpha) == (4.0, 40, 0.3)
    assert (config.sw_rmin, config.sw_rmax, config.pair_exclude_types) == (0.8, 2.4, ((0, 0),))
    assert config.model.pair_exclude_types == ()
    assert config.table == PairTableConfig.from_file(table, TYPE_MAP, 4.0, 40)
    without = zbl_input()
    del without["smin_alpha"]
    assert resolved(settings_of(without, table.parent)).smin_alpha == 0.1


def test_linear_input(table):
    config = resolved(settings_of(linear_input(weights=[0.5, 2]), table.parent))
    assert isinstance(config, LinearModelConfig)
    assert config.factors == (0.5, 2.0)
    assert config.models[1] == PairTableConfig.from_file(table, TYPE_MAP, 3.5, 30)
    assert config.models[0].type_map == TYPE_MAP


def test_type_map_of_the_parts_alone(table):
    node = linear_input()
    for part in node["models"]:
        part["type_map"] = list(TYPE_MAP)
    del node["type_map"]
    assert resolved(settings_of(node, table.parent)) == resolved(settings_of(linear_input(), table.parent))


def test_whole_input_file_with_auto(table, tmp_path):
    """``sel: auto`` of the descriptor holds for the table as well."""
    from dpsim.data import Frame, write_mixed

    rng = np.random.default_rng(0)
    frames = [Frame(rng.uniform(0, 3, (9, 3)), rng.integers(0, 2, 9), None, {"energy": np.array(1.0)}) for _ in "ab"]
    write_mixed(frames, tmp_path / "data", TYPE_MAP)
    dpa1 = {"type": "se_atten", "rcut": 4.0, "rcut_smth": 1.0, "sel": "auto:2", "neuron": [2, 4], "axis_neuron": 2}
    node = zbl_input(descriptor=dpa1, preset_out_bias={"energy": [None, -3.5]})
    tree = {
        "model": node,
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5},
        "loss": {"type": "ener"},
        "training": {"training_data": {"systems": ["data"], "batch_size": 1}, "numb_steps": 2},
    }
    (tmp_path / "input.json").write_text(json.dumps(tree))
    settings = resolve_sel(read_input(tmp_path / "input.json"))
    config = resolved(settings["model"])
    assert config.table.sel == config.model.descriptor.sel == 4 * ((2 * 8 + 3) // 4)
    assert settings["model"]["preset_out_bias"] == {"H": -3.5}


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (zbl_input(use_srtab="no.txt"), "no.txt: there is no such table"),
        (zbl_input(sw_rmax=0.1), "must be smaller than sw_rmax"),
        (linear_input(shared_dict={"d": DESCRIPTOR}), "shared_dict"),
        (linear_input(models=[{"type": "frozen", "model_file": "x.pb"}]), "model type 'frozen' is not supported"),
        (linear_input(more=1), "the key 'more' is not known"),
    ],
)
def test_what_is_refused(node, says, table):
    with pytest.raises((ConfigError, ValidationError), match=says):
        resolved(settings_of(node, table.parent))


def stored(model, params, path):
    """A checkpoint of DeePMD-kit with the numbers of a model: tensors by its names, found by trying forms."""
    family = FAMILIES.model(model.config.type, "")
    own = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    state = {}
    for name, tensor in family.torch_names(model.config, list(own), Context(model.type_map, FAMILIES)).items():
        if name in own:
            state[f"model.Default.atomic_model.{tensor.names[0]}"] = _inverse(tensor, own[name])
    for index, part in enumerate(model.models):
        if part.config.type == "pairtab":
            arrays = {name: tensor.numpy() for name, tensor in part.state_dict().items()}
            tree = FAMILIES.model("pairtab", "").write(part.config, arrays, Context(model.type_map, FAMILIES))
            tab = tree["tab"]["@variables"]
            prefix = f"model.Default.atomic_model.models.{index}."
            state[prefix + "tab_info"] = torch.from_numpy(tab["tab_info"])
            state[prefix + "tab_data"] = torch.from_numpy(tab["tab_data"].reshape(2, 2, -1, 4))
    torch.save({"model": {**state, "_extra_state": {"model_params": params, "train_infos": {}}}}, path)
    return path


def _inverse(tensor, array):
    for form in (
        array,
        array.T,
        array.reshape(1, -1, 1),
        np.repeat(array[:, None], 40, axis=1) if array.ndim else array,
    ):
        try:
            found = tensor.read(form)
        except (ValueError, IndexError):
            continue
        if np.size(found) == array.size and np.array_equal(np.reshape(found, array.shape), array):
            return torch.from_numpy(np.ascontiguousarray(form))
    raise AssertionError(f"no form of {tensor.names} gives the array")


def randomised(config):
    model = config.build(4)
    for name, buffer in model.named_buffers():
        if name.endswith("out_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(1), dtype=buffer.dtype))
    return model


def test_checkpoint_of_a_zbl_model(table, tmp_path):
    """The table is that of the tensors; the peer's models compute with smin_alpha 0.1 whatever their input says."""
    config = resolved(settings_of(zbl_input(smin_alpha=0.1), table.parent))
    model = randomised(config)
    path = stored(model, zbl_input(use_srtab="gone.txt", smin_alpha=0.3), tmp_path / "zbl.pt")
    again = load_checkpoint(path)
    assert again.config.smin_alpha == 0.1
    np.testing.assert_allclose(again.config.table.table, config.table.table, rtol=1e-13, atol=1e-15)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_checkpoint_of_a_linear_model(table, tmp_path):
    """Parts that share a descriptor are read, each with its own tensors."""
    model = randomised(resolved(settings_of(linear_input(), table.parent)))
    node = linear_input(shared_dict={"mine": DESCRIPTOR})
    node["models"][0] = {"descriptor": "mine", "fitting_net": FITTING, "pair_exclude_types": [[0, 0]]}
    again = load_checkpoint(stored(model, node, tmp_path / "linear.pt"))
    assert again.config.models[0] == model.config.models[0]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_checkpoint_without_its_table(table, tmp_path):
    model = randomised(resolved(settings_of(zbl_input(), table.parent)))
    path = stored(model, zbl_input(), tmp_path / "zbl.pt")
    content = torch.load(path, weights_only=True)
    del content["model"]["model.Default.atomic_model.models.1.tab_data"]
    torch.save(content, path)
    with pytest.raises(ModelError, match="the checkpoint has no table of pair energies"):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", [PairTableConfig, LinearModelConfig, ZBLModelConfig])
def test_round_trip(kind, tmp_path):
    model = randomised(kind.tiny())
    for suffix in ("dp", "yaml"):
        again = load_serialized(write_serialized(model, tmp_path / f"model.{suffix}"))
        assert again.config == model.config
        assert state_digest(again) == state_digest(model)


def test_round_trip_of_parts_that_know_more_elements(tmp_path):
    wide = ModelConfig.tiny().model_copy(update={"type_map": ("C", "H", "O"), "pair_exclude_types": ((0, 2),)})
    model = randomised(LinearModelConfig(type_map=("O", "H"), models=(wide, ModelConfig.tiny()), weights=(1.0, 0.5)))
    assert state_digest(load_serialized(write_serialized(model, tmp_path / "m.dp"))) == state_digest(model)


def test_a_spline_that_is_not_that_of_the_table(tmp_path):
    path = write_serialized(PairTableConfig.tiny().build(0), tmp_path / "model.dp")
    with h5py.File(path, "r+") as file:
        largest = max(file, key=lambda name: file[name].size)
        file[largest][5] += 1.0
    with pytest.raises(ModelError, match=r"model\.tab: the spline is not that of the table: the file is damaged"):
        load_serialized(path)
