"""DPA-3: settings, sizes, and the energies of a plain evaluation by the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.descriptors import DPA3Config
from dpsim.descriptors.dpa3.config import RepFlowConfig
from dpsim.model.config import ModelConfig
from dpsim.nn.activation import activation
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"e_rcut": 4.0, "e_rcut_smth": 4.0, "a_rcut": 3.0, "a_rcut_smth": 2.0},
            r"e_rcut_smth \(4.0 Å\) must be smaller than e_rcut",
        ),
        ({"a_rcut": 7.0}, r"a_rcut_smth \(3.5 Å\) < a_rcut \(7.0 Å\) <= e_rcut \(6.0 Å\)"),
        ({"a_rcut_smth": 4.0}, "is needed"),
        ({"a_sel": 130}, r"a_sel \(130\) must not exceed e_sel \(120\)"),
        ({"axis_neuron": 65}, r"axis_neuron \(65\) must not exceed"),
        ({"use_exp_switch": True, "a_rcut_smth": 0.0}, "use_exp_switch needs"),
        ({"use_dynamic_sel": True}, "use_dynamic_sel needs smooth_edge_update: true"),
        ({"sequential_update": True, "update_style": "res_avg"}, "sequential_update needs"),
        ({"a_compress_rate": 5}, r"must be divisible by 2 · a_compress_rate \(10\)"),
        ({"a_compress_rate": 1, "a_compress_e_rate": 4, "a_compress_use_split": True}, "takes more components"),
        ({"e_rcut": "6 fs"}, "unit 'fs' in '6 fs' is not a unit of length"),
        ({"n_dim": 0}, "greater than 0"),
        ({"e_rcut": float("nan")}, "is not a length"),
        ({"n_dims": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        RepFlowConfig(**settings)


def test_units_are_read():
    assert RepFlowConfig(e_rcut="0.6 nm").e_rcut == pytest.approx(6.0)


def test_wrong_activation_is_found_before_anything_is_built():
    with pytest.raises(ValidationError, match="activation 'swish' is unknown"):
        DPA3Config(activation_function="swish")


def test_what_is_asked_of_the_neighborhood():
    spec = DPA3Config(exclude_types=((0, 1),)).neighbors(2)
    angles = NeighborSpec(4.0, 20, pairs=True, strict=True)
    assert spec == NeighborSpec(6.0, 120, exclude_types=((0, 1),), inner=(angles,))
    assert DPA3Config(repflow=RepFlowConfig(update_angle=False)).neighbors(2).inner == ()
    assert DPA3Config().message_passing_layers == 5


def count(config, n_types):
    return sum(p.numel() for p in config.build(("O", "H", "C", "N", "S", "P", "Si", "Cl")[:n_types]).parameters())


def expected_count(config, n_types):
    """Formula of the specification (dpa3.md §5.3)."""
    f = config.repflow
    n, e, a, m, h = f.n_dim, f.e_dim, f.a_dim, f.axis_neuron, f.n_multi_edge_message
    layer = n * n + n + m * (n + e) * n + n + (2 * n + e) * h * n + h * n + (2 * n + e) * e + e
    if f.update_angle:
        n_in, e_in = f.compressed_widths
        width = a + n_in + 2 * e_in
        layer += width * e + e + e * e + e + width * a + a
        layer += (n * n_in + e * e_in) if f.a_compress_rate and not f.a_compress_use_split else 0
    if f.update_style == "res_residual":
        layer += (2 + h) * n + e + ((e + a) if f.update_angle else 0)
    bias = n if config.use_tebd_bias else 0
    return n_types * n + bias + 2 * e + a + f.nlayers * layer


@pytest.mark.parametrize(
    "flow",
    [
        {},
        {"a_compress_rate": 1, "a_compress_e_rate": 2, "a_compress_use_split": True, "a_dim": 32},
        {"a_compress_rate": 2, "n_multi_edge_message": 2, "axis_neuron": 3},
        {"update_angle": False},
        {"update_style": "res_avg", "nlayers": 2},
    ],
)
def test_parameter_count(flow):
    config = DPA3Config(repflow=RepFlowConfig(**flow))
    assert count(config, 2) == expected_count(config, 2)


def test_parameter_count_of_the_default_model():
    assert count(DPA3Config(), 2) == 1_334_848
    model = ModelConfig(type_map=("O", "H"), descriptor=DPA3Config(), fitting={"neuron": (240, 240, 240)}).build()
    assert sum(p.numel() for p in model.parameters()) == 1_482_209


@pytest.mark.parametrize(("init", "spread"), [("const", False), ("norm", True)])
def test_initial_residual_vectors(init, spread):
    config = DPA3Config(repflow=RepFlowConfig(update_residual=0.2, update_residual_init=init))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vectors = torch.cat([v.detach() for layer in config.build(("O",)).layers for v in layer.node_residual])
    assert vectors.dtype == torch.float64
    if spread:
        assert vectors.std().item() == pytest.approx(0.2, rel=4 / math.sqrt(2 * len(vectors)))
        assert abs(vectors.mean().item()) < 4 * 0.2 / math.sqrt(len(vectors))
    else:
        assert torch.all(vectors == torch.tensor(0.2, dtype=torch.float64))


@pytest.mark.parametrize("sequential", [False, True])
def test_parameters_that_reach_the_energy(sequential):
    tiny = ModelConfig.tiny()
    flow = tiny.descriptor.repflow.model_copy(update={"sequential_update": sequential})
    model = tiny.model_copy(update={"descriptor": tiny.descriptor.model_copy(update={"repflow": flow})}).build()
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 3.0, (8, 3))
    graph = frame_graph(positions, np.arange(8) % 2, None, model.neighbors)
    energy = model(collate([graph])).sum()
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(energy, list(model.parameters()), allow_unused=True)
    dead = {name for name, g in zip(names, gradients, strict=True) if g is None}
    last = [
        f"descriptor.layers.2.{part}" for part in ("edge_self", "edge_angle", "angle_self", "edge_res", "angle_res")
    ]
    before = [f"descriptor.layers.1.{part}" for part in ("angle_self", "angle_res")]
    expected = {n for n in names if n.startswith((*last, *before))}
    assert dead == (set() if sequential else expected)


def plain_layer(layer, node, edge, angle, center, neighbor, ae, ij, ik, sw, h, asw):
    """One parallel layer with concatenated inputs and loops, by dpa3.md §4 (split compression, smooth edges)."""
    f, phi = layer.config, layer.phi
    ke, ka = f.normalizers
    n_atoms = len(node)

    def sums(rows, index, n):
        return torch.zeros(n, *rows.shape[1:], dtype=rows.dtype).index_add(0, index, rows)

    def hg(g):
        return sums(h[:, :, None] * (sw[:, None] * g)[:, None, :], center, n_atoms) / math.sqrt(ke)

    def symmetric(g):
        x = hg(g)
        return (torch.einsum("nkm,nkd->nmd", x[:, :, : f.axis_neuron], x) / 3).reshape(n_atoms, -1)

    z = torch.cat([node[center], node[neighbor], edge], 1)
    v = sums(sw[:, None] * phi(layer.node_edge(z)), center, n_atoms) / ke
    updates = [
        phi(layer.node_self(node)),
        phi(layer.node_sym(torch.cat([symmetric(edge), symmetric(node[neighbor])], 1))),
        *v.reshape(n_atoms, f.n_multi_edge_message, -1).unbind(1),
    ]
    new_node = node + sum(r * u for r, u in zip(layer.node_residual, updates, strict=True))
    n_in, e_in = f.compressed_widths
    small = edge[ae][:, :e_in]
    y = torch.cat([angle, node[center[ae]][ij][:, :n_in], small[ik], small[ij]], 1)
    q = phi(layer.edge_angle1(y))
    m = sums(asw[:, None] * q, ij, len(ae)) / math.sqrt(ka)
    everywhere = torch.zeros_like(edge).index_copy(0, ae, m)
    p1, p2 = phi(layer.edge_self(z)), phi(layer.edge_angle2(everywhere))
    new_edge = edge + layer.edge_residual[0] * p1 + layer.edge_residual[1] * p2
    new_angle = angle + layer.angle_residual[0] * phi(layer.angle_self(y))
    return new_node, new_edge, new_angle


def test_descriptor_by_the_formulas():
    config = DPA3Config.tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        descriptor = config.build(("O", "H"))
    rng = np.random.default_rng(1)
    positions, types = rng.uniform(0, 3.5, (7, 3)), np.arange(7) % 2
    graph = frame_graph(positions, types, np.eye(3) * 4.5, config.neighbors(2))
    flow, phi = config.repflow, activation(config.activation_function)

    def switch(r, start, stop):
        u = ((r - start) / (stop - start)).clamp(0, 1)
        return 1 - 10 * u**3 + 15 * u**4 - 6 * u**5

    hood = collate([graph])
    center, neighbor, (ae, _, (ij, ik, _), _) = hood.center, hood.neighbor, hood.inner[0]
    d = torch.from_numpy(graph.displacements)
    r = d.norm(dim=1)
    sw = switch(r, flow.e_rcut_smth, flow.e_rcut)
    h = (sw / r**2)[:, None] * d / 0.3
    unit = d[ae] / (r[ae] + 1e-6)[:, None]
    aw = switch(r[ae], flow.a_rcut_smth, flow.a_rcut)
    cosine = (1 - 1e-6) * (unit[ij] * unit[ik]).sum(1)
    node = phi(descriptor.type_embedding.linear.weight[torch.from_numpy(types)])
    edge = r[:, None] @ descriptor.edge_embedding.weight + descriptor.edge_embedding.bias
    angle = (cosine / math.sqrt(math.pi))[:, None] @ descriptor.angle_embedding.weight
    for layer in descriptor.layers:
        node, edge, angle = plain_layer(
            layer, node, edge, angle, center, neighbor, ae, ij, ik, sw, h, aw[ij] * aw[ik]
        )  # fmt: skip
    found = descriptor(hood).features
    assert found.shape == (7, descriptor.dim_out)
    torch.testing.assert_close(found, node, rtol=1e-12, atol=1e-12)
