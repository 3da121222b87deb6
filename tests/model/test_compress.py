"""Compressed models: numbers of the models they were made from, files, the command, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dpsim.calculators.evaluate import load
from dpsim.cli.models.compress import command
from dpsim.descriptors.tabulated import TabulatedNetwork
from dpsim.errors import ConfigError, ModelError
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.model.compress import compress
from dpsim.model.config import LinearModelConfig, ModelConfig, PairTableConfig, read_config
from dpsim.model.peer.files.convert import write_serialized
from dpsim.testing import Subject
from dpsim.train.start.setup import refuse_tables

SEE = {"rcut": 4.0, "rcut_smth": 2.0, "sel": 40, "neuron": (3, 6)}
A = {"type": "se_e2_a", "axis_neuron": 2, "resnet_dt": True, **SEE}
DPA1 = {
    "type": "dpa1", "rcut": 4.0, "rcut_smth": 2.0, "sel": 80, "neuron": (3, 6), "axis_neuron": 2, "tebd_dim": 2,
    "attn": 4, "attn_layer": 1, "smooth_type_embedding": True, "tebd_input_mode": "strip",
}  # fmt: skip
DESCRIPTORS = {
    "se_e2_a": A,
    "se_e2_a, one side": A | {"type_one_side": True, "exclude_types": ((0, 1),)},
    "se_e2_r": {"type": "se_e2_r", **SEE},
    "se_e3": {"type": "se_e3", **SEE | {"rcut": 3.0, "rcut_smth": 1.0}},
    "dpa1": DPA1,
    "hybrid": {"type": "hybrid", "list": [{"type": "se_e2_r", **SEE}, A]},
}
TABLES = {"se_e2_a": 4, "se_e2_a, one side": 2, "se_e2_r": 2, "se_e3": 3, "dpa1": 1, "hybrid": 6}


def model(descriptor, **settings):
    config = {"type_map": ("O", "H"), "descriptor": descriptor, "fitting": {"neuron": (8, 8)}} | settings
    made = ModelConfig.model_validate(config).build(1)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in made.named_buffers():
        random = torch.rand(buffer.shape[:-1], generator=generator, dtype=torch.float64)
        if name.endswith("environment.stddev"):
            buffer.copy_(0.2 + 0.2 * random.unsqueeze(-1))
        if name.endswith("environment.mean"):
            buffer[..., 0] = 0.1 * random
    return made


def compare(a, b, relative):
    subject = Subject(a)
    for name, structure in subject.samples().items():
        found = Subject(b).evaluate(structure)
        subject.agree_all(name, found, subject.evaluate(structure), relative)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_numbers_of_the_model_it_was_made_from(name):
    made = model(DESCRIPTORS[name])
    found = compress(made, 0.7)
    assert len(found.tables) == TABLES[name]
    assert found.left == {}
    assert found.output_error < 1e-7
    assert found.force_error < 1e-5
    compare(made, found.model, 1e-6 if name == "se_e3" else 1e-9)


def test_a_finer_table_is_more_exact():
    made = model(A)
    coarse, fine = (compress(made, 0.7, step=step).force_error for step in (0.1, 0.01))
    assert 100 * fine < coarse


def test_the_file_of_a_compressed_model(tmp_path):
    found = compress(model(A), 0.7).model
    path = save_model(found, tmp_path / "model.safetensors")
    again = load_model(path)
    assert again.config == found.config
    assert state_digest(again) == state_digest(found)
    assert len(again.config.descriptor.compressed) == 4
    assert read_config(json.loads(json.dumps(found.config.model_dump(mode="json")))) == found.config
    assert tuple(load(path).type_map) == ("O", "H")


def test_parts_that_cannot_be_compressed_stay():
    made = model({"type": "hybrid", "list": [A, DPA1 | {"tebd_input_mode": "concat"}]})
    found = compress(made, 0.7)
    assert found.left == {
        "descriptor.members.1": "dpa1 is given types beside the distance (tebd_input_mode: concat); "
        "only strip can be tabulated"
    }
    assert all(path.startswith("descriptor.members.0.") for path in found.tables)
    compare(made, found.model, 1e-9)


def test_parts_of_a_sum():
    settings = model(A).config
    made = LinearModelConfig(type_map=("O", "H"), models=(settings, PairTableConfig.tiny())).build(2)
    for name, buffer in made.named_buffers():
        if name.endswith("environment.stddev"):
            buffer.fill_(0.2)
    found = compress(made, 0.7)
    assert set(found.tables) == {f"models.0.descriptor.networks.{k}" for k in range(4)}
    compare(made, found.model, 1e-9)


def test_other_outputs():
    fitting = {"type": "dipole", "neuron": (8, 8)}
    made = model(A, fitting=fitting)
    found = compress(made, 0.7)
    assert found.force_error == 0.0
    assert 0 < found.output_error < 1e-9


def test_single_precision():
    made = model(A).with_precision("float32")
    found = compress(made, 0.7)
    tables = [m for m in found.model.modules() if isinstance(m, TabulatedNetwork)]
    assert {table.table.dtype for table in tables} == {torch.float32}
    assert found.force_error < 1e-9  # of the grid: what float32 rounds off is not counted
    compare(made, found.model, 1e-4)


@pytest.mark.parametrize(
    ("descriptor", "options", "message"),
    [
        ({}, {}, r"cannot be compressed \(descriptor: dpa3 has no network that is given one number\)"),
        (DPA1 | {"tebd_input_mode": "concat"}, {}, "dpa1 is given types beside the distance"),
        (A, {"min_distance": 0.0}, "min_distance is 0.0, expected a number above 0"),
        (A, {"step": float("nan")}, "step is nan, expected a number above 0"),
        (A, {"extrapolate": 0.5}, "extrapolate is 0.5, expected a number of at least 1"),
        (A, {"step": 4.0}, "with tables of step 4 outputs differ by .* use a smaller step"),
    ],
)
def test_what_is_refused(descriptor, options, message):
    with pytest.raises(ModelError, match=message):
        compress(model(descriptor), **{"min_distance": 0.7} | options)


def test_what_is_refused_of_compressed_models(tmp_path):
    found = compress(model(A), 0.7).model
    with pytest.raises(ModelError, match="descriptor is compressed already"):
        compress(found, 0.7)
    with pytest.raises(ModelError, match="a compressed model cannot be written for DeePMD-kit"):
        write_serialized(found, tmp_path / "model.dp")
    with pytest.raises(ConfigError, match="a compressed model cannot be trained"):
        refuse_tables(found)


@pytest.fixture
def files(tmp_path):
    save_model(model(A), tmp_path / "model.safetensors")
    system = tmp_path / "data" / "set.000"
    system.mkdir(parents=True)
    (tmp_path / "data" / "type.raw").write_text("0\n1\n")
    (tmp_path / "data" / "type_map.raw").write_text("O\nH\n")
    (tmp_path / "data" / "nopbc").write_text("")
    np.save(system / "coord.npy", np.array([[0.0, 0, 0, 0, 0, 1.3], [0.0, 0, 0, 0, 0, 0.8]]))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_the_command(files):
    output = files / "small.safetensors"
    done = run(files / "model.safetensors", "-o", output, "--data", files / "data")
    assert done.exit_code == 0, done.output
    assert "tables down to 0.8 Å" in done.output
    assert "descriptor.networks.3: " in done.output
    frame = {"positions": np.array([[0.0, 0, 0], [0, 0, 1.1]]), "types": np.array([0, 1])}
    a, b = (load(path).evaluate(**frame).energy for path in (files / "model.safetensors", output))
    assert a == pytest.approx(b, rel=1e-10)
    done = run(files / "model.safetensors", "-o", output, "--min-distance", 0.9, "--step", 0.1, "--json")
    assert json.loads(done.output)["intervals"]["descriptor.networks.0"] > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --min-distance or --data"),
        (("--min-distance", 1, "--data", "data"), "give either --min-distance or --data"),
    ],
)
def test_the_command_needs_a_distance(files, arguments, message, monkeypatch):
    monkeypatch.chdir(files)
    done = run("model.safetensors", "-o", "small.safetensors", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_the_command_writes_one_kind_of_file(files):
    done = run(files / "model.safetensors", "-o", files / "small.pt2", "--min-distance", 1)
    assert "a compressed model ends in .safetensors, found '.pt2'" in str(done.exception)
