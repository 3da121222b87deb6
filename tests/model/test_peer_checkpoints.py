"""Checkpoints of DeePMD-kit's trainer: every head against its numbers, and what is refused.

Double-precision models agree to a few 1e-16; the tolerances are those that the project promises. The one in single
precision is limited by its rounding.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dpsim.calculators.evaluate import load
from dpsim.errors import ModelError
from dpsim.model.checkpoint import state_digest
from dpsim.model.peer.files.checkpoint import load_checkpoint, load_frozen
from dpsim.train.records.state import read_model

INDEX = Path(__file__).resolve().parents[3] / "shared" / "golden" / "index.json"
CASES = {case["name"]: case for case in json.loads(INDEX.read_text())["checkpoints"]} if INDEX.is_file() else {}
absent = pytest.mark.skip(reason="the developers' folder of reference data (../shared) is absent")


def files():
    """File, head and prefix of its quantities, of everything that was evaluated."""
    for name, case in CASES.items():
        for head in case.get("heads", [None]):
            yield pytest.param(name, case["evaluated"], head, "", id=f"{case['evaluated']}-{head}")
        if case.get("frozen"):
            yield pytest.param(name, case["frozen"], None, "", id=case["frozen"])
        if "step_5" in case["checkpoints"]:
            yield pytest.param(name, case["checkpoints"]["step_5"], None, "first_ckpt_", id=f"{name}-step-5")
    if not CASES:
        yield pytest.param("", "", None, "", marks=absent)


@pytest.mark.parametrize(("name", "file", "head", "prefix"), list(files()))
def test_reference_numbers(name, file, head, prefix):
    case, compared = CASES[name], 0
    data = np.load(INDEX.parent / case["data_file"])
    potential = load(INDEX.parent / file, head=head, device="cpu")
    single = potential.dtype == "float32"
    for structure in case["structures_per_head"][head] if head else case["structures"]:
        at = structure["id"]
        for f in range(structure["nframes"]):
            given = {key: data[f"{at}/{key}"][f] for key in ("coord", "atype", "cell") if f"{at}/{key}" in data}
            p = potential.evaluate(given["coord"], given["atype"], given.get("cell"))
            found = {"energy": p.energy, "force": p.forces, "virial": p.virial}
            for key, tolerance in (("energy", 1e-10), ("force", 1e-9), ("virial", 1e-9)):
                place = "/".join([at, *([head] if head else []), prefix + key])
                if place not in data:
                    continue
                expected = data[place][f]
                allowed = np.abs(expected).max() * (1e-5 if single and key != "energy" else tolerance)
                assert np.abs(np.reshape(found[key], expected.shape) - expected).max() <= allowed, place
                compared += 1
    assert compared >= 2


def test_frozen_model_and_checkpoint_are_the_same(golden):
    a, b = load_checkpoint(golden / "ckpt_dpa3.ckpt-10.pt"), load_frozen(golden / "ckpt_dpa3.pth")
    assert a.config == b.config
    assert state_digest(a) == state_digest(b)


def test_heads_share_the_descriptor(golden):
    a, b = (read_model(golden / "ckpt_multi.ckpt-6.pt", head) for head in ("head_a", "head_b"))
    assert a.config.fitting.neuron == (16, 16)
    assert b.config.fitting.neuron == (12, 12, 12)
    for name, tensor in a.descriptor.state_dict().items():
        assert torch.equal(tensor, b.descriptor.state_dict()[name]), name


def test_case_vectors_tell_the_heads_apart(golden):
    for index, head in enumerate(("w1", "w2")):
        model = read_model(golden / "ckpt_multi_case.ckpt-6.pt", head)
        assert model.fitting.case_embedding.tolist() == [float(index == 0), float(index == 1)]


def refused(path, message, head=None):
    """Reading fails with one sentence that names the file."""
    with pytest.raises(ModelError, match=message) as caught:
        read_model(path, head)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_head(golden):
    path = golden / "ckpt_multi.ckpt-6.pt"
    refused(path, "has several heads: choose one head of head_a, head_b")
    refused(path, "has no head 'c': choose one of head_a, head_b", head="c")
    refused(golden / "ckpt_dpa3.ckpt-5.pt", "has a single head: leave out head='head_a'", head="head_a")
    refused(golden / "ckpt_dpa3.pth", "has a single head", head="head_a")
    refused(golden / "dpa3_01_plain.dp", "has a single head", head="head_a")


@pytest.fixture
def content(golden):
    return torch.load(golden / "ckpt_dpa3.ckpt-5.pt", weights_only=True)


def written(content, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    return path


def test_heads_by_their_alias(golden, tmp_path):
    content = torch.load(golden / "ckpt_multi.ckpt-6.pt", weights_only=True)
    content["model"]["_extra_state"]["model_params"]["model_dict"]["head_b"]["model_branch_alias"] = ["second"]
    model = read_model(written(content, tmp_path), "second")
    assert state_digest(model) == state_digest(read_model(golden / "ckpt_multi.ckpt-6.pt", "head_b"))


def test_state_dict_alone_is_read(golden, content, tmp_path):
    assert state_digest(read_model(written(content["model"], tmp_path))) == state_digest(
        read_model(golden / "ckpt_dpa3.ckpt-5.pt")
    )


def test_missing_keys_of_older_files_take_the_defaults(golden, content, tmp_path):
    params = content["model"]["_extra_state"]["model_params"]
    for key in ("sel_reduce_factor", "sequential_update", "n_multi_edge_message"):
        del params["descriptor"]["repflow"][key]
    flow = params["descriptor"]["repflow"]
    flow["edge_use_dist"], flow["use_env_envelope"] = flow.pop("edge_init_use_dist"), flow.pop("use_exp_switch")
    del flow["fix_stat_std"]
    flow["skip_stat"] = True
    del params["fitting_net"]["type"]
    assert read_model(written(content, tmp_path)).config == read_model(golden / "ckpt_dpa3.ckpt-5.pt").config


ROOT = "model.Default.atomic_model."


def drop(content, name):
    content["model"] = {key: value for key, value in content["model"].items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].pop("_extra_state"), "holds tensors without the model's settings"),
        (lambda c: c["model"].pop(f"{ROOT}out_bias"), "the tensor 'atomic_model.out_bias' is missing"),
        (lambda c: c["model"].update({f"{ROOT}more": torch.ones(1)}), "the tensor 'atomic_model.more' is not known"),
        (
            lambda c: c["model"].update({f"{ROOT}descriptor.se.compress_data.0": torch.ones(1)}),
            "is a compressed model: use the model it was made from",
        ),
        (
            lambda c: drop(c, "model.Default"),
            "expected the tensors of a DeePMD-kit model, found none|no tensors of the",
        ),
        (lambda c: c["model"].update({f"{ROOT}out_bias": torch.ones(1, 3, 1)}), "the arrays do not fit"),
        (lambda c: c["model"][f"{ROOT}out_bias"].fill_(float("nan")), "out_bias has values that are not finite"),
        (
            lambda c: c["model"][f"{ROOT}descriptor.repflows.stddev"][:, 3].fill_(7.0),
            "expected the same numbers in every neighbour slot",
        ),
        (
            lambda c: c["model"]["_extra_state"]["model_params"]["descriptor"].update(type="unheard"),
            "descriptor type 'unheard' is not supported: use one of dpa3",
        ),
        (
            lambda c: c["model"]["_extra_state"]["model_params"]["descriptor"].update(new_option=1),
            r"model\.descriptor: the key 'new_option' is not known to dpsim",
        ),
        (
            lambda c: c["model"]["_extra_state"]["model_params"]["descriptor"]["repflow"].update(e_rcut_smth=9.0),
            r"model\.\S*\.repflow: e_rcut_smth \(9\.0 Å\) must be smaller than e_rcut",
        ),
    ],
)
def test_damaged_content(content, tmp_path, change, message):
    change(content)
    refused(written(content, tmp_path), message)


def test_place_holders_and_aliases_are_passed_over(golden, content, tmp_path):
    content["model"][f"{ROOT}descriptor.compress_data.0"] = torch.empty(0)
    aliases = [name for name in content["model"] if "._networks." in name]
    assert aliases
    assert state_digest(read_model(written(content, tmp_path))) == state_digest(
        read_model(golden / "ckpt_dpa3.ckpt-5.pt")
    )
    content["model"][aliases[0].replace("_networks.0", "_networks.9")] = torch.ones(2)
    refused(written(content, tmp_path), r"filter_layers\._networks\.9\S* is not known")
