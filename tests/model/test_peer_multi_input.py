"""Multi-task inputs of DeePMD-kit: branches as heads, what they share, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

from dpsim.cli.main import run as cli
from dpsim.errors import ConfigError
from dpsim.model.checkpoint import load_any
from dpsim.model.peer.inputs.auto_sel import resolve_sel
from dpsim.model.peer.inputs.input import read_input, translate
from dpsim.model.peer.inputs.multi_input import split_branches
from dpsim.train.config import TrainConfig
from dpsim.train.settings.heads import multi_config


def dpa1(**changes):
    return {"type": "dpa1", "sel": 20, "rcut": 4.0, "neuron": [2, 4], "attn_layer": 0, **changes}


@pytest.fixture
def tree():
    """Two branches on one descriptor, a third that shares its type embedding."""
    branch = {"type_map": "elements", "descriptor": "one", "fitting_net": {"neuron": [5]}}
    return {
        "model": {
            "shared_dict": {"elements": ["O", "H"], "one": dpa1()},
            "model_dict": {
                "water": dict(branch),
                "ice": {**branch, "fitting_net": {"neuron": [6]}, "model_branch_alias": ["solid"], "info": {"x": 1}},
                "gas": {**branch, "descriptor": "one:1"},
            },
            "atom_exclude_types": [1],
        },
        "learning_rate": {"start_lr": 1e-3, "stop_lr": 1e-5},
        "loss_dict": {"water": {}, "ice": {"start_pref_f": 7}, "gas": {}},
        "training": {
            "data_dict": {
                name: {"training_data": {"systems": [name], "batch_size": k + 1}}
                for k, name in enumerate(("water", "ice", "gas"))
            },
            "model_prob": {"water": 1, "ice": 2, "gas": 1},
            "numb_steps": 10,
        },
    }


def heads_of(tree, tmp_path):
    """Settings of a training, and of the model, that an input asks for."""
    found = translate(tree, "input.json", tmp_path)
    config = TrainConfig.model_validate(found.settings)
    return found, config, multi_config(config, found.type_map)


def test_branches_are_heads(tree, tmp_path):
    found, config, model = heads_of(tree, tmp_path)
    assert list(config.heads) == ["water", "ice", "gas"]
    assert [head.probability for head in config.heads.values()] == [1, 2, 1]
    assert [head.batch_size for head in config.heads.values()] == [1, 2, 3]
    assert config.heads["ice"].loss.forces[0] == 7
    assert {name: one.train_systems for name, one in found.heads.items()} == {n: [tmp_path / n] for n in config.heads}
    assert [head.model.fitting.neuron for head in model.heads.values()] == [(5,), (6,), (5,)]
    assert [head.model.atom_exclude_types for head in model.heads.values()] == [(1,)] * 3  # a default for all branches
    assert model.heads["ice"].aliases == ("solid",)
    assert [(group.part, group.heads) for group in model.shared] == [
        ("descriptor", ("water", "ice")), ("descriptor.type_embedding", ("water", "gas")),
    ]  # fmt: skip
    built = model.build()
    assert built.members["ice"].descriptor is built.members["water"].descriptor
    assert built.members["gas"].descriptor.type_embedding is built.members["water"].descriptor.type_embedding
    assert built.members["gas"].descriptor.embedding is not built.members["water"].descriptor.embedding


def test_shared_fitting_and_members_of_hybrids(tree, tmp_path):
    tree["model"]["shared_dict"] |= {"net": {"neuron": [4], "dim_case_embd": 3}, "near": dpa1(rcut=3.0)}
    for name, branch in tree["model"]["model_dict"].items():
        level = ":1" if name == "gas" else ""
        branch |= {"fitting_net": "net", "descriptor": {"type": "hybrid", "list": [dpa1(), f"near{level}"]}}
    *_, model = heads_of(tree, tmp_path)
    assert [(group.part, group.heads) for group in model.shared] == [
        ("fitting", ("water", "ice", "gas")),
        ("descriptor.members.1", ("water", "ice")),
        ("descriptor.members.1.type_embedding", ("water", "gas")),
    ]
    members = model.build().members
    assert members["ice"].descriptor.members[1] is members["water"].descriptor.members[1]
    assert members["ice"].descriptor.members[0] is not members["water"].descriptor.members[0]
    cases = {name: head.fitting.case_embedding.tolist() for name, head in members.items()}
    assert cases == {"gas": [1, 0, 0], "ice": [0, 1, 0], "water": [0, 0, 1]}


def test_fine_tuning_and_parts_that_are_not_trained(tree, tmp_path):
    sections = tree["model"]["model_dict"]
    sections["ice"]["finetune_head"] = "RANDOM"
    sections["gas"]["fitting_net"] = {"trainable": False, "neuron": [5]}
    found = translate(tree, "input.json", tmp_path)
    config = TrainConfig.model_validate(found.settings | {"recipe": "finetune"})
    assert config.heads["ice"].start_head == "RANDOM"
    assert config.frozen == ("gas.fitting",)


def test_sel_is_counted_over_all_data(tree, tmp_path, golden):
    tree["model"]["shared_dict"]["one"] = dpa1(sel="auto")
    for branch, system in (("water", "water_one_frame"), ("ice", "water_four_frames"), ("gas", "water_one_frame")):
        data = tree["training"]["data_dict"][branch]["training_data"]
        data["systems"] = [str(golden / "train_data" / system)]
    settings = resolve_sel(translate(tree, "input.json", tmp_path))
    sels = {head["model"]["descriptor"]["sel"] for head in settings["heads"].values()}
    assert len(sels) == 1
    assert isinstance(sels.pop(), int)


def test_epochs_of_branches(tree, tmp_path):
    del tree["training"]["model_prob"], tree["training"]["numb_steps"]
    tree["training"]["num_epoch_dict"] = {"water": 1, "ice": 2.5, "gas": 3}
    _, config, _ = heads_of(tree, tmp_path)
    assert (config.steps, config.epochs) == (None, None)
    assert config.epochs_of_heads == {"water": 1, "ice": 2.5, "gas": 3}


@pytest.mark.parametrize("file", ["ckpt_multi", "ckpt_multi_case"])
def test_golden_inputs(golden, tmp_path, file):
    """They train, and what they share is what the checkpoint shares."""
    shutil.copy(golden / f"{file}.input.json", tmp_path / "input.json")
    shutil.copytree(golden / "train_data", tmp_path / "train_data")
    assert cli(["train", str(tmp_path / "input.json"), "-o", str(tmp_path / "t")]) == 0
    found = read_input(tmp_path / "input.json")
    model = load_any(tmp_path / "t" / "last.safetensors")
    assert list(model.members) == list(found.heads)
    expected = {"ckpt_multi": ["descriptor"], "ckpt_multi_case": ["descriptor", "fitting"]}[file]
    assert [group.part for group in model.config.shared] == expected


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model.model_dict", {}, "expected branches by name"),
        ("model.model_dict.RANDOM", {}, "none of them RANDOM"),
        ("model.model_dict.gas.descriptor", "two", r"'two': shared_dict has no 'two' \(it has elements, one\)"),
        ("model.model_dict.gas.descriptor", "one:x", "the level of sharing is a number"),
        ("model.model_dict.gas.descriptor", "one:2", r"shared_dict\.one: level 2 of sharing is not known"),
        ("model.model_dict.gas.type_map", ["H", "O"], "branches have different type maps"),
        ("loss_dict.gas", ..., "loss_dict: the branch 'gas' is missing"),
        ("loss_dict.foam", {}, "loss_dict: there is no branch 'foam'"),
        ("loss", {"start_pref_e": 1}, "loss has no effect in a multi-task input: write loss_dict"),
        ("training.data_dict.gas", ..., r"training\.data_dict: the branch 'gas' is missing"),
        ("training.model_prob.gas", ..., r"training\.model_prob: the branch 'gas' is missing"),
        ("training.num_epoch_dict", {"gas": 1}, "num_epoch_dict: the branch 'water' is missing"),
        ("training.num_epoch_dict", {"gas": 1, "ice": 2, "water": 3}, "num_epoch_dict and model_prob exclude"),
        ("training.numb_epoch", 3, r"training\.numb_epoch is for a single task: write num_epoch_dict"),
        ("training.more", 1, "the key 'more' is not known"),
    ],
)  # fmt: skip
def test_what_is_refused(tree, tmp_path, place, value, message):
    *path, last = place.split(".")
    node = tree
    for key in path:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    with pytest.raises(ConfigError, match=message):
        heads_of(tree, tmp_path)


def test_a_part_has_one_place(tree):
    tree["model"]["model_dict"]["gas"]["descriptor"] = {"type": "hybrid", "list": ["one", dpa1()]}
    with pytest.raises(ConfigError, match=r"shared_dict\.one stands in different places of the branches"):
        split_branches(tree, "input.json")


def test_the_input_is_not_changed(tree):
    before = copy.deepcopy(tree)
    split_branches(tree, "input.json")
    assert json.dumps(tree) == json.dumps(before)
