"""Model files: round trip, damage, and DeePMD-kit's containers; every refusal is one sentence."""

from __future__ import annotations

import json
import os
import shutil

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dpsim.calculators.evaluate import load
from dpsim.descriptors.dpa3.config import DPA3Config, RepFlowConfig
from dpsim.errors import ModelError, SetupError
from dpsim.model.checkpoint import content_digest, load_model, read_header, save_model, state_digest
from dpsim.model.config import ModelConfig
from dpsim.model.peer.files.convert import load_serialized


@pytest.fixture(scope="module")
def model():
    return ModelConfig.tiny().build(seed=5)


@pytest.fixture
def file(model, tmp_path):
    return save_model(model, tmp_path / "model.safetensors", provenance={"step": 7})


def refused(path, message, reader=load_model):
    """Reading fails with one sentence that names the file."""
    with pytest.raises(ModelError, match=message) as caught:
        reader(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


def rewrite(file, change_header=None, change_state=None):
    """Write the file anew with a changed header or changed tensors, and a digest that fits."""
    with safe_open(str(file), "pt") as opened:
        header = json.loads(opened.metadata()["dpsim"])
    state = load_file(str(file))
    for change, value in ((change_header, header), (change_state, state)):
        if change:
            change(value)
    header["content"] = content_digest(header, state)
    save_file(state, str(file), metadata={"dpsim": json.dumps(header)})


def test_round_trip(model, file):
    read = load_model(file)
    assert read.config == model.config
    assert state_digest(read) == state_digest(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    header = read_header(file)
    assert header["digest"] == state_digest(model)
    assert header["provenance"] == {"step": 7}


def test_digest_tells_models_apart(model):
    other = ModelConfig.tiny().build(seed=6)
    assert state_digest(other) != state_digest(model)
    assert state_digest(ModelConfig.tiny().build(seed=5)) == state_digest(model)
    excluded = model.config.model_copy(update={"atom_exclude_types": (0,)}).build(seed=5)
    assert state_digest(excluded) != state_digest(model)


def test_writing_replaces_at_once_and_leaves_nothing_behind(model, file, monkeypatch):
    before = file.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_model(ModelConfig.tiny().build(seed=1), file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_digest_does_not_know_options_with_their_default(model):
    """A later version, with one more option in every part, finds the same digest."""

    class LaterFlow(RepFlowConfig):
        one_more: bool = False

    class LaterDescriptor(DPA3Config):
        repflow: LaterFlow
        another: int = 3

    class LaterModel(ModelConfig):
        descriptor: LaterDescriptor
        last: float = 1.0

    later = LaterModel.model_validate(model.config.model_dump())
    twin = later.build(seed=5)
    assert twin.config is later
    assert state_digest(twin) == state_digest(model)
    other = later.model_copy(update={"last": 2.0}).build(seed=5)
    assert state_digest(other) != state_digest(model)


def test_new_files_have_the_usual_mode_and_are_flushed(model, tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    before = os.umask(0o027)
    try:
        path = save_model(model, tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert flushed


def test_any_flipped_bit_is_noticed(file):
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(8, len(content), 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(0, 8)
        file.write_bytes(damaged)
        refused(file, "is not a dpsim model|the file is damaged|is not known to this dpsim")
    file.write_bytes(content)
    load_model(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(file, value):
    rewrite(file, change_state=lambda state: state["out_bias"].fill_(value))
    refused(file, "out_bias has values that are not finite")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_files(file, keep):
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(file, "is not a dpsim model: expected a safetensors file written by dpsim")


def test_other_files(tmp_path):
    path = tmp_path / "model.safetensors"
    refused(path, "there is no such model file")
    refused(tmp_path, "there is no such model file")
    path.write_text("hello\n" * 100)
    refused(path, "is not a dpsim model")
    save_file({"x": torch.zeros(2)}, str(path))
    refused(path, "is not a dpsim model")
    save_file({"x": torch.zeros(2)}, str(path), metadata={"dpsim": "{"})
    refused(path, "is not a dpsim model")
    save_file({"x": torch.zeros(2)}, str(path), metadata={"dpsim": "[1]"})
    refused(path, "model format None is not known to this dpsim")


def test_other_versions(file):
    rewrite(file, lambda header: header.update(format_version=99))
    refused(file, r"model format 99 is not known to this dpsim \(format 1\): use a newer dpsim")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out_bias"), r'Missing key\(s\) in state_dict: "out_bias"'),
        (lambda s: s.update(extra=torch.zeros(1)), r'Unexpected key\(s\) in state_dict: "extra"'),
        (lambda s: s.update(out_bias=torch.zeros(3)), "size mismatch for out_bias"),
    ],
)
def test_tensors_that_do_not_fit(file, change, message):
    rewrite(file, change_state=change)
    refused(file, rf"the tensors do not fit the model's configuration \({message}.*: the file is damaged")


def test_settings_that_are_not_valid(file):
    rewrite(file, lambda header: header["config"].update(surprise=1))
    refused(file, r"the model's configuration is not valid \(standard\.surprise: Extra inputs are not permitted\)")
    rewrite(file, lambda header: header.pop("config"))
    refused(file, r"the model's configuration is not valid \(standard\.type_map: Field required\)")


def test_settings_that_do_not_fit(file):
    rewrite(file, lambda header: header["config"]["descriptor"]["repflow"].update(n_dim=9))
    refused(file, "the tensors do not fit the model's configuration")


def test_options_of_load(file):
    for arguments, kind, message in (
        ({"head": "water"}, ModelError, "has a single head: leave out head='water'"),
        ({"dtype": "float16"}, ModelError, "dtype 'float16' is unknown: use float32, float64"),
        ({"device": "tpu"}, SetupError, "device 'tpu' is unknown: use auto, cpu or cuda"),
    ):
        with pytest.raises(kind, match=message):
            load(file, **arguments)
    other = file.rename(file.with_suffix(".model"))
    refused(other, r"model files end in \.safetensors, .* found '\.model'", load)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(file):
    with pytest.raises(SetupError, match="device 'cuda' was asked for, but torch sees no GPU here: use cpu"):
        load(file, device="cuda")


@pytest.fixture
def serialized(golden, tmp_path):
    return shutil.copy(golden / "dpa3_01_plain.dp", tmp_path / "model.dp")


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_truncated_dp(serialized, keep):
    content = serialized.read_bytes()
    serialized.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(serialized, "is not a serialised DeePMD-kit model, or is damaged", load_serialized)


def first_layer(model):
    return model["fitting"]["nets"]["networks"][0]["layers"][0]["@variables"]


DAMAGE = {
    "no layers": (
        lambda m: m["descriptor"].pop("repflow_variable"),
        "the key 'repflow_variable' is missing: the file is damaged",
    ),
    "no weights": (lambda m: first_layer(m).pop("w"), r"layers\[0\]: the array 'w' is missing: the file is damaged"),
    "no bias": (lambda m: m.pop("@variables"), "model: the array 'out_bias' is missing: the file is damaged"),
    "unknown array": (lambda m: first_layer(m).update(zz=first_layer(m)["w"]), "the key 'zz' is not known to dpsim"),
    "wrong kind": (
        lambda m: m["descriptor"]["repflow_variable"].update(repflow_layers=5),
        "repflow_layers: expected a list of sections, found int",
    ),
    "no array": (lambda m: first_layer(m).update(w="/nowhere"), "or is damaged"),
    "other widths": (
        lambda m: m["fitting"].update(neuron=[3, 3]),
        r"networks\[0\]: found a network of .*: the file is damaged",
    ),
    "unknown key": (lambda m: m.update(surprise=1), "model: the key 'surprise' is not known to dpsim"),
    "unknown option": (
        lambda m: m["descriptor"]["repflow_args"].update(surprise=1),
        r"model\.descriptor\.repflow_args: the key 'surprise' is not known to dpsim",
    ),
    "other version": (
        lambda m: m.update({"@version": 9}),
        "class 'Model' version 9 is not known: expected 'Model' version 1 or 2",
    ),
    "activation": (lambda m: m["descriptor"].update(activation_function="swish"), "activation 'swish' is unknown"),
    "precision": (
        lambda m: m["descriptor"].update(precision="bfloat16"),
        r"model\.descriptor\.dpa3\.precision: Input should be 'float32' or 'float64'",
    ),
    "elements": (lambda m: m.update(type_map=["O", "O"]), "names an element twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_dp(serialized, name):
    damage, message = DAMAGE[name]
    with h5py.File(serialized, "r+") as file:
        tree = json.loads(file.attrs["json"])
        damage(tree["model"])
        file.attrs["json"] = json.dumps(tree)
    refused(serialized, message, load_serialized)


def test_statistics_must_not_depend_on_the_slot(serialized):
    with h5py.File(serialized, "r+") as file:
        where = json.loads(file.attrs["json"])["model"]["descriptor"]["repflow_variable"]["@variables"]["dstd"]
        values = file[where][()]
        values[0, 1] += 0.1
        file[where][...] = values
    refused(serialized, "dstd: expected the same numbers in every neighbour slot", load_serialized)


def test_serialized_weights_must_be_finite(serialized):
    with h5py.File(serialized, "r+") as file:
        where = json.loads(file.attrs["json"])["model"]["@variables"]["out_bias"]
        file[where][...] = np.nan
    refused(serialized, "out_bias has values that are not finite", load_serialized)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "or is damaged"),
        ("", "expected a section 'model'"),
        ("- 1", "expected a section 'model'"),
        ("model: 1", "expected a section 'model'"),
        ('!!python/object/apply:os.system ["touch executed"]', "or is damaged"),
    ],
)
def test_other_yaml(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.yaml"
    path.write_text(text)
    refused(path, message, load_serialized)
    assert not (tmp_path / "executed").exists()


def test_a_serialised_model_survives_our_own_format(golden, tmp_path):
    read = load_serialized(golden / "dpa3_03_smooth_poly.dp")
    again = load_model(save_model(read, tmp_path / "copy.safetensors"))
    assert state_digest(again) == state_digest(read)
    assert np.any(again.descriptor.environment.mean.numpy())  # this model has a shift
