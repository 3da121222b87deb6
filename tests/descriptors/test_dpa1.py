"""DPA-1 and se_atten_v2: settings, sizes, and a plain evaluation by the formulas with every place written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim import ops
from dpsim.descriptors import DPA1Config, SeAttenV2Config
from dpsim.errors import ConfigError
from dpsim.export.compile import trace
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.config import ModelConfig
from dpsim.model.peer.descriptors.dpa1 import DPA1Peer, SeAttenV2Peer
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context
from dpsim.model.peer.section import InputSection
from dpsim.model.presets import preset
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph
from dpsim.testing import CHECKS, ContractError, Subject, check_all

F64 = torch.float64
TYPES = ("O", "H")


def tiny(config=DPA1Config, **changes):
    return config.model_validate(config.tiny().model_dump() | changes)


def whole(descriptor):
    return ModelConfig(type_map=TYPES, descriptor=descriptor, fitting=EnergyFittingConfig.tiny())


def randomised(module, *, mean, seed=0):
    """Layer norms and environment scales with numbers as after a training."""
    rng = np.random.default_rng(seed)
    environment = module.embedding.environment
    radial, vector = rng.uniform(0.1, 0.3, (2, 2, 1))
    environment.stddev.copy_(torch.from_numpy(np.concatenate([radial, vector, vector, vector], axis=1)))
    if mean:
        environment.mean[:, 0] = torch.from_numpy(rng.normal(0, 0.08, 2))
    with torch.no_grad():
        for layer in module.attention:
            for values in (layer.norm.weight, layer.norm.bias):
                values.copy_(values + torch.from_numpy(rng.normal(0, 0.3, values.shape)))
    return module


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rcut_smth": 6.0}, r"rcut_smth \(6.0 Å\) must be smaller than rcut \(6.0 Å\)"),
        ({"axis_neuron": 41}, r"axis_neuron \(41\) must not exceed the last of neuron \(40\)"),
        ({"neuron": ()}, "at least 1 item"),
        ({"lmax": 5}, "less than or equal to 4"),
        ({"lmax": 0}, "greater than or equal to 1"),
        ({"attn_layer": -1}, "greater than or equal to 0"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"tebd_input_mode": "mixed"}, "Input should be 'concat' or 'strip'"),
        ({"attn_mask": True}, "Extra inputs are not permitted"),
        ({"activation_function": "swish"}, "activation 'swish' is unknown"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        DPA1Config(**settings)


@pytest.mark.parametrize("key", ["tebd_input_mode", "smooth_type_embedding"])
def test_the_second_version_has_no_choice_of_mode(key):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SeAttenV2Config(**{key: DPA1Config().model_dump()[key]})
    assert SeAttenV2Config().strip
    assert SeAttenV2Config().smooth
    assert not SeAttenV2Config().set_davg_zero


def test_what_is_asked_of_the_neighborhood_and_of_the_data():
    config = DPA1Config(exclude_types=((0, 1),), env_protection=0.1, set_davg_zero=False)
    assert config.neighbors(2) == NeighborSpec(6.0, 120, pairs=True)
    assert DPA1Config(attn_layer=0).neighbors(2) == NeighborSpec(6.0, 120)
    (block,) = config.environments()
    assert (block.path, block.rcut, block.rcut_smth, block.sel, block.protection) == ((), 6.0, 0.5, 120, 0.1)
    assert (block.zero_mean, block.constant_stddev, block.exclude_types) == (False, 0.0, ((0, 1),))
    config.build(TYPES).get_submodule(block.module)
    assert config.message_passing_layers == 0


def test_another_cutoff():
    config = DPA1Config().with_cutoff(3.0)
    assert (type(config), config.rcut, config.rcut_smth, config.sel) == (DPA1Config, 3.0, 0.25, 15)


@pytest.mark.parametrize(
    "changes",
    [{}, {"type_one_side": False, "resnet_dt": True}, {"attn_layer": 0, "lmax": 3, "tebd_input_mode": "strip"}],
)
def test_parameter_count(changes):
    config = DPA1Config.model_validate(preset("dpa1", TYPES).descriptor.model_dump() | changes)
    n_types, t, (a, b, m), d = 2, config.tebd_dim, config.neuron, config.attn
    types = t if config.type_one_side else 2 * t

    def network(n_in):
        times = b + m if config.resnet_dt else 0  # of the layers whose width doubles
        return (n_in + 1) * a + (a + 1) * b + (b + 1) * m + times

    expected = n_types * t + (network(1) + network(types) if config.strip else network(1 + types))
    expected += config.attn_layer * ((m + 1) * 3 * d + (d + 1) * m + 2 * m) + config.lmax - 1
    assert sum(p.numel() for p in config.build(TYPES).parameters()) == expected


def test_parameter_counts_of_the_presets():
    counts = {
        name: sum(p.numel() for p in preset(name, TYPES).build().parameters()) for name in ("dpa1", "se-atten-v2")
    }
    assert counts == {"dpa1": 612_995, "se-atten-v2": 515_652}


def test_layer_norms_that_are_not_trained():
    module = tiny(trainable_ln=False).build(TYPES)
    assert not [name for name, _ in module.named_parameters() if "norm" in name]
    assert module.state_dict().keys() == tiny().build(TYPES).state_dict().keys()


def test_types_without_electron_configuration():
    with pytest.raises(ConfigError, match="type 'A' is no chemical element"):
        tiny(use_econf_tebd=True).build(("A", "H"))


# --- numbers --------------------------------------------------------------------------------------------------------


def structure(n_atoms=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 3.5, (n_atoms, 3)), np.arange(n_atoms) % 2, np.eye(3) * 4.5


def network(net, x):
    for layer in net.layers:
        y = layer.phi(x @ layer.linear.weight + layer.linear.bias)
        y = y if layer.idt is None else y * layer.idt
        copies = y.shape[-1] // x.shape[-1] if y.shape[-1] in (x.shape[-1], 2 * x.shape[-1]) else 0
        x = y + torch.cat([x] * copies, dim=-1) if copies else y
    return x


def places(module, graph, i):
    """All `sel` places of centre i by spec dpa1.md §2: rows, switch, filled, types; empty ones last."""
    config = module.config
    mine = np.flatnonzero(graph.center == i)
    d = torch.from_numpy(graph.displacements[mine])
    kinds = graph.types[graph.neighbor[mine]]
    hidden = {frozenset(pair) for pair in config.exclude_types}
    visible = torch.tensor([frozenset((graph.types[i], b)) not in hidden for b in kinds], dtype=F64)
    r = d.norm(dim=1)
    u = ((r - config.rcut_smth) / (config.rcut - config.rcut_smth)).clamp(0, 1)
    sw, p = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5, r + config.env_protection
    rows = torch.cat([(sw / p)[:, None], d * (sw / p**2)[:, None]], dim=1)
    empty = config.sel - len(mine)
    pad = torch.nn.functional.pad
    mean, stddev = (v[graph.types[i]] for v in (module.embedding.environment.mean, module.embedding.environment.stddev))
    rows = (pad(rows, (0, 0, 0, empty)) - mean) / stddev * pad(visible, (0, empty), value=1.0)[:, None]
    omega = pad(sw * visible / p / stddev[0], (0, empty))
    direction = pad(d / p[:, None], (0, 0, 0, empty))
    return rows, pad(sw * visible, (0, empty)), pad(visible, (0, empty)), [*kinds, *[-1] * empty], omega, direction


def plain(module, graph):
    """Features and basis by loops over centres, every place written out; empty ones have the zero vector as type."""
    config, block = module.config, module.embedding
    table = torch.cat([module.type_embedding.table(), torch.zeros(1, config.tebd_dim, dtype=F64)])
    features, bases = [], []
    for i, own in enumerate(graph.types):
        rows, s, m, kinds, omega, direction = places(module, graph, i)
        tau = table[torch.tensor(kinds)]
        if not config.type_one_side:
            tau = torch.cat([tau, table[own].expand_as(tau)], dim=1)
        if config.strip:
            fade = s if config.smooth else torch.ones_like(s)
            g = network(block.network, rows[:, :1]) * (1 + fade[:, None] * network(block.type_network, tau))
        else:
            g = network(block.network, torch.cat([rows[:, :1], tau], dim=1))
        for layer in module.attention:
            g = plain_attention(layer, config, g, rows, s, m)
        q = rows.T @ g / config.sel
        product = q.T @ q[:, : config.axis_neuron]
        for degree in range(2, config.lmax + 1):
            lengths = direction.norm(dim=1)
            outer = lengths[:, None] * lengths
            cosine = (direction @ direction.T / torch.where(outer > 0, outer, 1.0)).detach().numpy()
            legendre = torch.from_numpy(np.polynomial.legendre.Legendre.basis(degree)(cosine)) * outer**degree
            weights = omega[:, None] * omega * legendre * module.degree_gain[degree - 2] ** 2 / config.sel**2
            product = product + g.T @ weights @ g[:, : config.axis_neuron]
        parts = [product.flatten(), table[own]] if config.concat_output_tebd else [product.flatten()]
        features.append(torch.cat(parts))
        bases.append(q[1:].T)
    return torch.stack(features).detach(), torch.stack(bases).detach()


def plain_attention(layer, config, g, rows, s, m):
    q, k, v = (g @ layer.in_proj.weight + layer.in_proj.bias).chunk(3, dim=1)
    if config.normalize:
        q, k, v = (torch.nn.functional.normalize(x) for x in (q, k, v))
    z = q @ k.T * (config.temperature or (config.attn * config.scaling_factor) ** -0.5)
    fade = s[:, None] * s
    z = (z + 20) * fade - 20 if config.smooth else z.masked_fill(m[None, :] == 0, -math.inf)
    p = torch.softmax(z, dim=1).nan_to_num(0.0) * m[:, None]
    if config.smooth:
        p = p * fade
    if config.attn_dotr:
        unit = torch.nn.functional.normalize(rows[:, 1:])
        p = p * (unit @ unit.T)
    out = g + p @ v @ layer.out_proj.weight + layer.out_proj.bias
    spread = out.var(1, correction=0, keepdim=True)
    norm = layer.norm
    return norm.weight * (out - out.mean(1, keepdim=True)) / torch.sqrt(spread + config.ln_eps) + norm.bias


VARIANTS = {
    "default": tiny(),
    "no attention": tiny(attn_layer=0, lmax=4, concat_output_tebd=False),
    "one-sided, residual first layer": tiny(type_one_side=True, neuron=(3, 6), resnet_dt=True),
    "two-sided, residual first layer": tiny(neuron=(5, 10), exclude_types=((0, 0),)),
    "not smooth": tiny(smooth_type_embedding=False, exclude_types=((0, 1),), normalize=False, scaling_factor=3.0),
    "not smooth, no angles": tiny(smooth_type_embedding=False, exclude_types=((0, 1),), attn_dotr=False),
    "all excluded": tiny(smooth_type_embedding=False, exclude_types=((0, 1), (0, 0), (1, 1))),
    "no angles": tiny(attn_dotr=False, temperature=2.0, env_protection=0.05, lmax=3),
    "strip": tiny(tebd_input_mode="strip", activation_function="silu", ln_eps=1e-2),
    "strip, not smooth": tiny(tebd_input_mode="strip", smooth_type_embedding=False, attn_layer=1, lmax=2),
    "strip, one-sided": tiny(tebd_input_mode="strip", type_one_side=True, use_econf_tebd=True, use_tebd_bias=True),
    "v2": tiny(SeAttenV2Config, exclude_types=((1, 1),)),
    "truncated": tiny(sel=9),
}  # fmt: skip


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_descriptor_by_the_formulas(name, mean):
    config = VARIANTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = randomised(config.build(TYPES, basis=True), mean=mean)
    positions, types, cell = structure()
    graph = frame_graph(positions, types, cell, config.neighbors(2))
    assert np.bincount(graph.center).max() == 9 if name == "truncated" else np.bincount(graph.center).min() > 9
    found = module(collate([graph]))
    features, basis = plain(module, graph)
    assert found.features.shape == (7, module.dim_out)
    assert found.basis.shape == (7, module.dim_basis, 3)
    torch.testing.assert_close(found.features.detach(), features, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.basis.detach(), basis, rtol=1e-11, atol=1e-12)


def test_basis_only_if_asked_for():
    positions, types, cell = structure()
    hood = collate([frame_graph(positions, types, cell, tiny().neighbors(2))])
    assert tiny().build(TYPES)(hood).basis is None


CONTINUOUS = {
    "strip": tiny(tebd_input_mode="strip", lmax=3, type_one_side=True),
    "v2": tiny(SeAttenV2Config),
}
EVERY = {check.__name__ for check in CHECKS}
CHECKED = {
    "check_rotation", "check_batch", "check_edge_order", "check_empty", "check_forces", "check_virial", "check_cutoff",
    "check_parameter_gradient", "check_isolated_atom",
}  # fmt: skip


def subject_with_mean(config):
    subject = Subject.from_config(whole(config))
    randomised(subject.model.descriptor, mean=True)
    return subject


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("check", sorted(CHECKED))
def test_contract_with_a_mean(name, check):
    {c.__name__: c for c in CHECKS}[check](subject_with_mean(CONTINUOUS[name]))


def test_with_types_beside_the_distance_and_a_mean_the_energy_jumps_at_the_cutoff():
    """By its definition: what an empty place embeds is not what a neighbour at the cutoff does."""
    checks = {c.__name__: c for c in CHECKS}
    with pytest.raises(ContractError, match="energy where a neighbour crosses the cutoff"):
        checks["check_cutoff"](subject_with_mean(tiny()))
    for name in CHECKED - {"check_cutoff"}:
        checks[name](subject_with_mean(tiny()))


@pytest.mark.parametrize("name", ["no attention", "two-sided, residual first layer", "no angles", "strip, one-sided"])
def test_contract_of_settings(name):
    check_all(whole(VARIANTS[name]), skip=EVERY - CHECKED - {"check_exclusions", "check_single_precision"})


def test_attention_that_is_not_smooth_jumps_at_the_cutoff():
    rough = whole(tiny(smooth_type_embedding=False))
    with pytest.raises(ContractError, match="check_cutoff: energy where a neighbour crosses the cutoff"):
        check_all(rough, skip=EVERY - {"check_cutoff"})
    check_all(rough, skip=EVERY - (CHECKED - {"check_cutoff"}))


@pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")
@pytest.mark.parametrize("name", ["default", "not smooth", "v2"])
def test_traced_graph_has_the_same_numbers_for_any_sizes(name):
    model = whole(VARIANTS[name]).build(1)
    randomised(model.descriptor, mean=True)
    program, _ = trace(model, "cpu")
    run, rng = program.module(), np.random.default_rng(0)
    for n_atoms, periodic in itertools.product((0, 1, 2, 8), (False, True)):
        cell = np.eye(3) * 5.0 if periodic and n_atoms else None
        graph = frame_graph(rng.uniform(0, 4, (n_atoms, 3)), np.arange(n_atoms) % 2, cell, model.neighbors)
        hood = collate([graph])
        hood = hood._replace(displacements=hood.displacements.requires_grad_(True))
        expected = model(hood)
        (slope,) = torch.autograd.grad(expected.sum(), hood.displacements)
        atomic, gradient = run(*(tensor.detach() for tensor in hood.tensors()))
        torch.testing.assert_close(atomic, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


def test_parameters_that_reach_the_energy():
    model = whole(tiny(SeAttenV2Config, attn_layer=2)).build()
    positions, types, cell = structure()
    energy = model(collate([frame_graph(positions, types, cell, model.neighbors)])).sum()
    gradients = torch.autograd.grad(energy, list(model.parameters()), allow_unused=True)
    assert all(g is not None and torch.any(g != 0) for g in gradients)


# --- the peer's input -----------------------------------------------------------------------------------------------


def read_input(peer, **settings):
    return peer.from_input(InputSection(settings, "input.json: model.descriptor"), Context(TYPES, FAMILIES))


def test_input_with_aliases():
    found = read_input(
        DPA1Peer(), type="se_atten", sel=[40, 80], rcut=5.0, n_axis_neuron=8, smooth_type_embdding=True,
        stripped_type_embedding=True, ln_eps=None, temperature=None, attn_mask=False, precision="default", _note="x",
    )  # fmt: skip
    assert DPA1Config.model_validate(found) == DPA1Config(
        sel=120, rcut=5.0, axis_neuron=8, smooth_type_embedding=True, tebd_input_mode="strip"
    )


def test_input_defaults():
    assert DPA1Config.model_validate(read_input(DPA1Peer(), sel=120)) == DPA1Config()
    assert SeAttenV2Config.model_validate(read_input(SeAttenV2Peer(), sel=120)) == SeAttenV2Config()
    counted = read_input(DPA1Peer(), rcut=5.0)
    (place,) = DPA1Peer().sel_places(counted, FAMILIES)
    assert (counted["sel"], place.path, place.cutoff) == ("auto", ("sel",), 5.0)


@pytest.mark.parametrize(
    ("peer", "settings", "message"),
    [
        (DPA1Peer(), {"attn_mask": True}, "descriptor.attn_mask: True is not supported: only False is"),
        (SeAttenV2Peer(), {"tebd_input_mode": "strip"}, "the key 'tebd_input_mode' is not known to dpsim"),
        (DPA1Peer(), {"axis_neuron": 4, "n_axis_neuron": 8}, "'axis_neuron' and 'n_axis_neuron' mean the same"),
    ],
)
def test_wrong_input(peer, settings, message):
    with pytest.raises(ConfigError, match=message):
        read_input(peer, **settings)
