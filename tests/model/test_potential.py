"""The whole model: output bias, exclusions, precision, seeds, settings and presets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.errors import ConfigError
from dpsim.model.config import ModelConfig
from dpsim.model.presets import PRESETS, preset
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph


def hood_of(model, n=6):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * 1.6
    return collate([frame_graph(grid + rng.uniform(-0.2, 0.2, grid.shape), np.arange(n) % 2, None, model.neighbors)])


def test_bias_keeps_its_digits_with_networks_in_float32():
    model = ModelConfig.tiny().build().with_precision("float32")
    hood = hood_of(model)
    before = model(hood)
    assert before.dtype == torch.float64
    bias = torch.tensor([-2043.123456789012, -13.987654321098], dtype=torch.float64)
    model.out_bias.copy_(bias)
    torch.testing.assert_close(model(hood) - bias[hood.types], before, rtol=0, atol=1e-12)


def test_precision_changes_networks_and_keeps_numbers():
    model = ModelConfig.tiny().build(3)
    single = model.with_precision("float32")
    assert (model.precision, single.precision) == ("float64", "float32")
    assert all(p.dtype == torch.float32 for p in single.parameters())
    assert single.out_bias.dtype == torch.float64
    assert single.config.fitting.precision == "float32"
    back = single.with_precision("float64")
    for name, p in back.named_parameters():
        torch.testing.assert_close(p, model.get_parameter(name).float().double(), rtol=0, atol=0)


@pytest.mark.parametrize("parts", [("float64", "float32"), ("float32", "float64")])
def test_parts_of_different_precision(parts):
    mixed = ModelConfig.tiny().build(3).with_precision(*parts)
    assert (mixed.config.descriptor.precision, mixed.config.fitting.precision) == parts
    assert mixed.precision == "float32"  # results have no more digits than that
    for wanted, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = mixed.with_precision(wanted)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_seeds():
    state = torch.random.get_rng_state()
    a, b, c = (ModelConfig.tiny().build(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, p in a.named_parameters():
        assert torch.equal(p, b.get_parameter(name)), name
    assert not torch.equal(a.descriptor.edge_embedding.weight, c.descriptor.edge_embedding.weight)


def test_derivatives_of_several_frames():
    model = ModelConfig.tiny().build()
    rng = np.random.default_rng(1)
    graphs = [
        frame_graph(rng.uniform(0, 3, (n, 3)), np.zeros(n, int), np.eye(3) * 4.0, model.neighbors) for n in (3, 5)
    ]
    together = model.derivatives(collate(graphs), 2)
    assert together.energy.shape == (2,)
    assert together.virial.shape == (2, 3, 3)
    for index, graph in enumerate(graphs):
        alone = model.derivatives(collate([graph]), 1)
        torch.testing.assert_close(together.energy[index], alone.energy[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(together.virial[index], alone.virial[0], rtol=1e-11, atol=1e-13)


def test_excluded_type_alone_gives_zero():
    model = ModelConfig.tiny().model_copy(update={"atom_exclude_types": (0, 1)}).build()
    model.out_bias.fill_(5.0)
    result = model.derivatives(hood_of(model), 1)
    assert result.energy.item() == 0.0
    assert not result.forces.any()


def test_state_has_nothing_derived():
    names = set(ModelConfig.tiny().build().state_dict())
    assert {"out_bias", "out_std", "descriptor.environment.mean", "descriptor.environment.stddev"} <= names
    assert not {"energy_weight", "descriptor.type_embedding.identity"} & names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type_map": ()}, "at least 1 item"),
        ({"type_map": ("O", "H", "O")}, r"type_map \['O', 'H', 'O'\] names an element twice"),
        ({"pair_exclude_types": ((0, 2),)}, r"excluded types \[2\] are outside 0\.\.1"),
        ({"atom_exclude_types": (-1,)}, r"excluded types \[-1\] are outside 0\.\.1"),
        ({"descriptor": {"type": "dpa9"}}, "'dpa3'"),
        ({"fitting": {"neuron": (0,)}}, "greater than 0"),
        ({"fitting": {"activation_function": "swish"}}, "activation 'swish' is unknown"),
        ({"typemap": ("O",)}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(ModelConfig.tiny().model_dump() | changes)


def test_settings_survive_json():
    config = ModelConfig.tiny().model_copy(update={"pair_exclude_types": ((0, 1),)})
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    assert config.neighbors().exclude_types == ((0, 1),)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = preset(name, ("Cu",))
    assert config.type_map == ("Cu",)
    model = config.build(0)
    assert model.precision == config.fitting.precision == "float32"
    two = preset(name, ("O", "H")).build(0)
    assert sum(p.numel() for p in two.parameters()) == PRESETS[name].parameters


def test_unknown_preset():
    with pytest.raises(ConfigError, match="preset 'dpa3-huge' is unknown: use one of dpa3-tiny, "):
        preset("dpa3-huge", ("O",))
