"""DPA-2: settings, sizes, and its layers by the formulas on padded lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim import ops
from dpsim.descriptors import DPA2Config
from dpsim.descriptors.environment import Environment
from dpsim.export.compile import trace
from dpsim.model.config import ModelConfig
from dpsim.model.presets import preset
from dpsim.nn.activation import activation
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.testing import CHECKS, check_all
from dpsim.testing.structures import crystal, random_rotation


def dpa2(repinit=None, repformer=None, **changes):
    """The tiny settings with others in either part or for the whole."""
    settings = DPA2Config.tiny().model_dump()
    parts = {"repinit": settings["repinit"] | (repinit or {}), "repformer": settings["repformer"] | (repformer or {})}
    return DPA2Config.model_validate(settings | parts | changes)


def model(config):
    return ModelConfig(type_map=("O", "H"), descriptor=config, fitting=ModelConfig.tiny().fitting)


# --- settings -------------------------------------------------------------------------------------------------------

NOTHING = {"update_g1_has_grrg": False, "update_g1_has_drrd": False}


@pytest.mark.parametrize(
    ("repinit", "repformer", "message"),
    [
        ({"rcut_smth": 4.0}, {}, r"rcut_smth \(4.0 Å\) must be smaller than rcut \(4.0 Å\)"),
        ({"axis_neuron": 11}, {}, r"axis_neuron \(11\) must not exceed the last of neuron \(10\)"),
        ({"three_body_rcut_smth": 3.0}, {}, r"three_body_rcut_smth \(3.0 Å\) must be smaller"),
        ({}, {"rcut_smth": 3.3}, r"rcut_smth \(3.3 Å\) must be smaller than rcut \(3.3 Å\)"),
        ({}, {"axis_neuron": 7}, r"axis_neuron \(7\) must not exceed g2_dim \(6\)"),
        ({}, {"axis_neuron": 9, "update_g1_has_grrg": False}, r"axis_neuron \(9\) must not exceed g1_dim \(8\)"),
        ({}, NOTHING, "g1_out_mlp: true needs an update by the neighbours"),
        ({}, {"rcut": 4.0}, r"repformer.rcut \(4.0 Å\) and repformer.nsel \(26\) must be smaller than repinit.rcut"),
        ({}, {"nsel": 45}, r"repformer.nsel \(45\) must be smaller than"),
        ({"three_body_sel": 27}, {}, "three_body takes 27 neighbours within 3.0 Å but repformer 26 within 3.3 Å"),
        ({"three_body_rcut": 3.5}, {}, "repformer takes 26 neighbours within 3.3 Å but three_body 20 within 3.5 Å"),
    ],
)
def test_rules_between_settings(repinit, repformer, message):
    with pytest.raises(ValidationError, match=message):
        dpa2(repinit, repformer)


def test_the_three_body_part_is_not_checked_where_there_is_none():
    assert dpa2({"use_three_body": False, "three_body_sel": 300}).three_body is None


@pytest.mark.parametrize("cutoff", [3.0, 4.4, 5.0, 9.0])
@pytest.mark.parametrize("name", ["dpa2-small", "dpa2-medium"])
def test_any_cutoff_gives_valid_settings(name, cutoff):
    config = preset(name, ("O", "H")).descriptor
    moved = config.with_cutoff(cutoff)
    assert moved.neighbors(2).cutoff == cutoff
    if cutoff >= 5.0:  # the inner lists stay where they fit
        assert moved.neighbors(2).inner == config.neighbors(2).inner


@pytest.mark.parametrize(
    ("name", "descriptor"),
    [("small", 472_938), ("medium", 867_882), ("large", 1_591_722), ("compressible", 479_417)],
)
def test_sizes_of_the_published_models(name, descriptor):
    built = preset(f"dpa2-{name}", ("O", "H")).build()
    assert count(built.descriptor) == descriptor
    assert count(built.fitting) == 149_281


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_lists_and_statistics_belong_together():
    config = dpa2(exclude_types=((0, 1),))
    descriptor, spec = config.build(("O", "H")), config.neighbors(2)
    blocks = config.environments()
    assert [block.path for block in blocks] == [(), (0,), (1,)]
    for block in blocks:
        assert isinstance(descriptor.get_submodule(block.module), Environment)
        assert (spec.at(block.path).cutoff, spec.at(block.path).sel) == (block.rcut, block.sel)
    assert [spec.at(path).exclude_types for path in ((), (0,), (1,))] == [(), ((0, 1),), ((0, 1),)]
    assert blocks[0].exclude_types == ((0, 1),)


def test_pairs_of_pairs_are_listed_only_for_their_attention():
    assert dpa2().neighbors(2).inner[0].pairs
    without = {"update_g2_has_attn": False, "update_h2": False}
    assert not dpa2(repformer=without).neighbors(2).inner[0].pairs
    assert not dpa2(repformer={"nlayers": 1}).neighbors(2).inner[0].pairs


def test_the_last_layer_has_no_pair_channel():
    *others, last = dpa2().build(("O", "H")).layers
    assert all(hasattr(layer, "linear2") and hasattr(layer, "pair_attention") for layer in others)
    names = {name.split(".")[0] for name, _ in last.named_parameters()}
    assert names == {"linear1", "self_mlp", "conv", "local_attention", "g1_residual"}


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_layer_normalisation(trainable):
    descriptor = dpa2(repformer={"trainable_ln": trainable}).build(("O", "H"))
    for name, parameter in descriptor.named_parameters():
        assert parameter.requires_grad == (trainable or ".norm." not in name)


def test_features_are_exchanged_before_each_layer(monkeypatch):
    config, calls = dpa2(), []
    extend = ops.halo_extend
    monkeypatch.setattr(ops, "halo_extend", lambda *a: calls.append(1) or extend(*a))
    structure = crystal(config.neighbors(2), 2)
    graph = frame_graph(structure.positions, structure.types, structure.cell, config.neighbors(2))
    config.build(("O", "H"))(collate([graph]))
    assert len(calls) == config.message_passing_layers == 3


# --- the layers by their formulas -----------------------------------------------------------------------------------


class Padded:
    """Everything of one structure with `nsel` places for every atom, as in the spec; -1 marks an empty place."""

    def __init__(self, config, graph, environment):
        layers = config.repformer
        edges = graph.edges_at((0,))
        n_atoms, n = graph.n_atoms, layers.nsel
        self.nl = np.full((n_atoms, n), -1)
        d = np.zeros((n_atoms, n, 3))
        for i in range(n_atoms):
            mine = edges[graph.center[edges] == i]
            self.nl[i, : len(mine)], d[i, : len(mine)] = graph.neighbor[mine], graph.displacements[mine]
        self.m, d = torch.from_numpy(self.nl >= 0), torch.from_numpy(d)
        r = torch.where(self.m, d.norm(dim=2), 1.0)
        u = ((r - layers.rcut_smth) / (layers.rcut - layers.rcut_smth)).clamp(0, 1)
        self.s = torch.where(self.m, u**3 * (-6 * u**2 + 15 * u - 10) + 1, 0.0)
        p = r + config.env_protection
        rows = torch.cat([(self.s / p)[:, :, None], (self.s / p**2)[:, :, None] * d], dim=2)
        types = torch.from_numpy(graph.types)
        rows = (rows - environment.mean[types][:, None]) / environment.stddev[types][:, None]
        self.rho, self.h2 = rows[:, :, 0], rows[:, :, 1:]
        if layers.direct_dist:
            self.rho, self.h2 = torch.where(self.m, r, 0.0) / layers.rcut, d / layers.rcut
        self.w = self.s if config.smooth else self.m.to(torch.float64)
        counts = self.m.sum(1).to(torch.float64)
        self.mean = torch.full_like(counts, 1 / n) if config.smooth else 1 / (1e-4 + counts)
        root = torch.full_like(counts, n**-0.5) if config.smooth else 1 / (1e-4 + counts.sqrt())
        self.nu = root if layers.use_sqrt_nnei else self.mean
        self.smooth = config.smooth

    def moments(self, x):
        return self.nu[:, None, None] * torch.einsum("ija,ij,ijc->iac", self.h2, self.w, x)

    def sym(self, x, axis):
        h = self.moments(x)
        return (torch.einsum("iax,iay->ixy", h[:, :, :axis], h) / 3).flatten(1)

    def softmax(self, z, s, m):
        """Over the last dimension of z (..., H, n); s, m (..., n)."""
        s, m = s.unsqueeze(-2), m.unsqueeze(-2)
        z = (z + 20) * s - 20 if self.smooth else torch.where(m, z, -torch.inf)
        p = torch.nan_to_num(torch.softmax(z, dim=-1))
        p = torch.where(m, p, 0.0)
        return p * s if self.smooth else p


def combined(layer, name, old, updates):
    style = layer.config.update_style
    if style == "res_residual":
        return old + sum(r * u for r, u in zip(getattr(layer, f"{name}_residual"), updates, strict=True))
    scale = math.sqrt(len(updates) + (style == "res_avg"))
    return (old + sum(updates)) / scale if style == "res_avg" else old + sum(updates) / scale


def plain_local_attention(layer, padded, g1, gg):
    heads, d, width = layer.heads, layer.hidden, layer.width
    q = (g1 @ layer.query.weight).view(-1, d, heads)
    kv = (gg @ layer.key_value.weight).view(*gg.shape[:2], d + width, heads)
    z = torch.einsum("idh,ijdh->ihj", q, kv[:, :, :d]) / math.sqrt(d)
    p = padded.softmax(z, padded.s, padded.m)
    return layer.head(torch.einsum("ihj,ijch->ihc", p, kv[:, :, d:]).flatten(1))


def plain_pair_attention(layer, padded, g2, h2):
    """Weights (i, j, k, H)."""
    heads, d = layer.heads, layer.hidden
    qk = (g2 @ layer.query_key.weight).view(*g2.shape[:2], d, 2 * heads)
    z = torch.einsum("ijdh,ikdh->ijhk", qk[..., :heads], qk[..., heads:]) / math.sqrt(d)
    products = torch.einsum("ija,ika->ijk", h2, h2)[:, :, None]
    z = z * products if layer.gate else z
    both = padded.m[:, :, None] & padded.m[:, None]
    p = padded.softmax(z, padded.s[:, :, None] * padded.s[:, None], both)
    return (p * products / math.sqrt(3)).permute(0, 1, 3, 2)


def plain_layer(layer, padded, g1, g2):
    config, phi, h2 = layer.config, layer.phi, padded.h2
    gg = g1[torch.from_numpy(np.maximum(padded.nl, 0))]
    w = padded.w[:, :, None]
    updates, invariants = [], []
    (updates if config.g1_out_mlp else invariants).append(phi(layer.self_mlp(g1)) if config.g1_out_mlp else g1)
    if config.update_g1_has_conv:
        wide = (g2 @ layer.conv.weight) * gg if config.g1_out_conv else g2 * (gg @ layer.conv.weight)
        (updates if config.g1_out_conv else invariants).append(padded.mean[:, None] * (w * wide).sum(1))
    if config.update_g1_has_grrg:
        invariants.append(padded.sym(g2, config.axis_neuron))
    if config.update_g1_has_drrd:
        invariants.append(padded.sym(gg, config.axis_neuron))
    updates.append(phi(layer.linear1(torch.cat(invariants, dim=1))))
    if config.update_g1_has_attn:
        updates.append(plain_local_attention(layer.local_attention, padded, g1, gg))
    new = combined(layer, "g1", g1, updates)
    if layer.last:
        return new, g2
    updates = [phi(g2 @ layer.linear2.weight + layer.linear2.bias)]
    if config.update_g2_has_g1g1:
        updates.append((w * g1[:, None] * gg) @ layer.g1g1.weight)
    if config.update_g2_has_attn or config.update_h2:
        attention = layer.pair_attention
        a = plain_pair_attention(attention, padded, g2, h2)
        if config.update_g2_has_attn:
            v = (g2 @ attention.value.weight).view(*g2.shape, attention.heads)
            o = torch.einsum("ijkh,ikch->ijch", a, v).flatten(2) @ attention.head.weight + attention.head.bias
            updates.append(attention.norm(o))
        if config.update_h2:
            moved = torch.einsum("ijkh,h,ikx->ijx", a, attention.vector_head.weight[:, 0], h2)
            padded.h2 = combined(layer, "h2", h2, [moved])
    return new, combined(layer, "g2", g2, updates)


OLD = {"use_sqrt_nnei": False, "g1_out_conv": False, "g1_out_mlp": False}
VARIANTS = {
    "everything": dpa2(),
    "as before version 3": dpa2(repformer=OLD | {"update_style": "res_avg", "attn1_nhead": 3}),
    "increments": dpa2(repformer={"update_style": "res_incr", "attn2_has_gate": False, "activation_function": "silu"}),
    "bare distances": dpa2(repformer={"direct_dist": True, "update_residual_init": "const", "attn1_nhead": 4}),
    "vectors alone have attention": dpa2(repformer={"update_g2_has_attn": False, "update_style": "res_avg"}),
    "no attention": dpa2(
        {"use_three_body": False, "tebd_input_mode": "concat"},
        {"update_g1_has_attn": False, "update_g2_has_attn": False, "update_h2": False, "update_g1_has_grrg": False},
        add_tebd_to_repinit_out=False, concat_output_tebd=False,
    ),
    "excluded pairs": dpa2(exclude_types=((1, 1),), env_protection=0.05),
    "equal widths": dpa2({"axis_neuron": 1}, {"g1_dim": 14, "update_g1_has_drrd": False}),
    "not smooth": dpa2(smooth=False),
    "not smooth, old": dpa2(repformer=OLD | {"update_style": "res_incr"}, smooth=False),
    "one layer": dpa2(repformer={"nlayers": 1}),
}  # fmt: skip


def randomized(config, basis=False):
    torch.manual_seed(5)
    descriptor = config.build(("O", "H"), basis=basis)
    environment, rng = descriptor.environment, np.random.default_rng(1)
    environment.stddev.copy_(torch.from_numpy(rng.uniform(0.1, 0.4, (2, 2)))[:, [0, 1, 1, 1]])
    environment.mean[:, 0] = torch.tensor([0.2, -0.1], dtype=torch.float64)
    for name, parameter in descriptor.named_parameters():
        if ".norm." in name:
            parameter.data.normal_()
    return descriptor


@pytest.mark.parametrize("name", VARIANTS)
def test_formulas(name):
    config = VARIANTS[name]
    descriptor, spec = randomized(config, basis=True), config.neighbors(2)
    structure = crystal(spec, 2, 7)
    graph = frame_graph(structure.positions, structure.types, structure.cell, spec)
    hood = collate([graph])
    with torch.no_grad():
        table = descriptor.type_embedding.table()
        padded = Padded(config, graph, descriptor.environment)
        phi = activation(config.repformer.activation_function)
        g1 = phi(descriptor.atoms(hood, table))
        g2 = phi(padded.rho[:, :, None] @ descriptor.g2_embedding.weight + descriptor.g2_embedding.bias)
        for layer in descriptor.layers:
            g1, g2 = plain_layer(layer, padded, g1, g2)
        found, basis = descriptor(hood)
        if config.concat_output_tebd:
            g1 = torch.cat([g1, table[hood.types]], dim=1)
    assert found.shape == (7, descriptor.dim_out)
    assert basis.shape == (7, descriptor.dim_basis, 3)
    torch.testing.assert_close(found, g1, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(basis, padded.moments(g2).transpose(1, 2), rtol=1e-11, atol=1e-12)


def test_the_first_part_enters_through_a_map():
    config = dpa2()
    descriptor = randomized(config)
    structure = crystal(config.neighbors(2), 2, 7)
    hood = collate([frame_graph(structure.positions, structure.types, structure.cell, config.neighbors(2))])
    with torch.no_grad():
        table = descriptor.type_embedding.table()
        moments = descriptor.repinit(hood, table)
        gram = torch.einsum("nac,nad->ncd", moments, moments[:, :, :3]).flatten(1)
        angles = descriptor.three_body(hood.within(1), table)
        expected = torch.cat([gram, angles], dim=1) @ descriptor.shape.weight
        expected = expected + (table @ descriptor.tebd_transform.weight)[hood.types]
        torch.testing.assert_close(descriptor.atoms(hood, table), expected)
    assert VARIANTS["equal widths"].build(("O", "H")).shape is None


def test_directions_turn_with_the_structure():
    config = dpa2()
    descriptor, spec = randomized(config, basis=True), config.neighbors(2)
    structure = crystal(spec, 2)
    q = random_rotation(np.random.default_rng(2))
    turned = structure._replace(positions=structure.positions @ q.T, cell=structure.cell @ q.T)
    a, b = (
        descriptor(collate([frame_graph(s.positions, s.types, s.cell, spec)])).basis.detach().numpy()
        for s in (structure, turned)
    )
    np.testing.assert_allclose(b, a @ q.T, atol=1e-12)


ESSENTIAL = {"check_rotation", "check_edge_order", "check_batch", "check_empty", "check_forces", "check_virial"}
CONTINUITY = {"check_cutoff", "check_inner_cutoffs"}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("everything", "one layer")])
def test_contract_of_settings(name):
    checks = ESSENTIAL | (CONTINUITY if VARIANTS[name].smooth else set())
    check_all(model(VARIANTS[name]), skip={check.__name__ for check in CHECKS} - checks)


@pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")
def test_the_traced_graph_serves_all_sizes():
    subject = model(dpa2(repformer={"nlayers": 2})).build(1)
    program, _ = trace(subject, "cpu")
    run, rng = program.module(), np.random.default_rng(0)
    for n in (0, 1, 2, 9):
        graph = frame_graph(rng.uniform(0, 4, (n, 3)), np.arange(n) % 2, None, subject.neighbors)
        hood = collate([graph])
        expected = subject.derivatives(hood, 1)
        atomic, gradient = run(*hood.tensors())
        torch.testing.assert_close(atomic, expected.atomic_energy, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, expected.edge_gradient, rtol=0, atol=1e-12)
