"""se_e3_tebd: settings, and its output by the formula, summed pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim import ops
from dpsim.descriptors import SeE3TebdConfig
from dpsim.errors import ConfigError
from dpsim.export.compile import trace
from dpsim.model.config import ModelConfig
from dpsim.model.presets import preset
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.testing import CHECKS, check_all
from dpsim.testing.structures import molecule


def tiny(**changes):
    return SeE3TebdConfig.model_validate(SeE3TebdConfig.tiny().model_dump() | changes)


def model(config):
    return ModelConfig(type_map=("O", "H"), descriptor=config, fitting=ModelConfig.tiny().fitting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rcut_smth": 3.5}, r"rcut_smth \(3.5 Å\) must be smaller than rcut \(3.5 Å\)"),
        ({"neuron": ()}, "neuron"),
        ({"tebd_input_mode": "none"}, "'concat' or 'strip'"),
    ],
)
def test_rules_between_settings(changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny(**changes)


def test_directions_are_refused():
    with pytest.raises(ConfigError, match="'se_e3_tebd' gives no directions"):
        SeE3TebdConfig.tiny().build(("O", "H"), basis=True)


def test_another_cutoff_keeps_the_density():
    config = SeE3TebdConfig(sel=40, rcut=4.0, rcut_smth=0.5).with_cutoff(6.0)
    assert (config.rcut, config.rcut_smth, config.sel) == (6.0, 0.75, 135)


def test_preset():
    descriptor = preset("se-e3-tebd", ("O", "H")).build().descriptor
    assert sum(p.numel() for p in descriptor.parameters()) == (17 * 2 + 2) + (2 * 4 + 4) + (4 * 8 + 8) + (2 * 8 + 8)


VARIANTS = {
    "concat": {},
    "strip": {"tebd_input_mode": "strip"},
    "strip, not smooth": {"tebd_input_mode": "strip", "smooth": False, "set_davg_zero": False},
    "residual first layer": {"neuron": (14, 5), "resnet_dt": True, "concat_output_tebd": False, "tebd_dim": 3},
    "excluded pairs": {"exclude_types": ((0, 1),), "env_protection": 0.05, "activation_function": "gelu"},
    "electron configuration": {"use_econf_tebd": True, "use_tebd_bias": False},
}


def plain(descriptor, structure, graph):
    """The descriptor by its formula (spec classic.md §4): one atom and one pair of neighbours after the other."""
    config, block = descriptor.config, descriptor.three_body
    table, types, out = descriptor.type_embedding.table(), structure.types, []
    excluded = {frozenset(pair) for pair in config.exclude_types}
    for i in range(len(types)):
        total = torch.zeros(config.neuron[-1], dtype=torch.float64)
        rows = []
        for e in np.flatnonzero(graph.center == i):
            j = graph.neighbor[e]
            if frozenset((int(types[i]), int(types[j]))) in excluded:
                continue
            d = torch.from_numpy(graph.displacements[e])
            r = d.norm()
            u = ((r - config.rcut_smth) / (config.rcut - config.rcut_smth)).clamp(0, 1)
            w = u**3 * (-6 * u**2 + 15 * u - 10) + 1
            stddev = block.environment.stddev[types[i], 1:]
            rows.append((w / (r + config.env_protection) ** 2 * d / stddev, w, table[types[j]]))
        for vector_j, w_j, type_j in rows:
            for vector_k, w_k, type_k in rows:
                theta = (vector_j * vector_k).sum().reshape(1)
                if config.tebd_input_mode == "concat":
                    g = block.network(torch.cat([theta, type_j, type_k])[None])[0]
                else:
                    sigma = w_j * w_k if config.smooth else 1.0
                    factor = block.type_network(torch.cat([type_j, type_k])[None])[0]
                    g = block.network(theta[None])[0] * (1 + sigma * factor)
                total = total + theta * g
        features = [total / config.sel**2] + ([table[types[i]]] if config.concat_output_tebd else [])
        out.append(torch.cat(features))
    return torch.stack(out)


@pytest.mark.parametrize("name", VARIANTS)
def test_formula(name):
    config = tiny(**VARIANTS[name])
    torch.manual_seed(3)
    descriptor = config.build(("O", "H"))
    rng = np.random.default_rng(0)
    environment = descriptor.three_body.environment
    environment.stddev.copy_(torch.from_numpy(rng.uniform(0.1, 0.4, environment.stddev.shape)))
    environment.mean[:, 0] = torch.tensor([0.1, -0.2], dtype=torch.float64)  # of no effect: the radial part is not used
    structure = molecule(config.neighbors(2), 2)
    bare = config.neighbors(2)._replace(exclude_types=(), pairs=False)
    everything = frame_graph(structure.positions, structure.types, None, bare)
    graph = frame_graph(structure.positions, structure.types, None, config.neighbors(2))
    found = descriptor(collate([graph])).features
    assert found.shape == (6, descriptor.dim_out)
    with torch.no_grad():
        torch.testing.assert_close(found, plain(descriptor, structure, everything), rtol=1e-11, atol=1e-12)


ESSENTIAL = {
    "check_rotation", "check_edge_order", "check_batch", "check_empty", "check_forces", "check_virial",
    "check_parameter_gradient", "check_cutoff",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("concat", "strip, not smooth")])
def test_contract_of_settings(name):
    check_all(model(tiny(**VARIANTS[name])), skip={check.__name__ for check in CHECKS} - ESSENTIAL)


@pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")
def test_the_traced_graph_serves_all_sizes():
    subject = model(tiny()).build(1)
    program, _ = trace(subject, "cpu")
    run, rng = program.module(), np.random.default_rng(0)
    for n in (0, 1, 2, 9):
        graph = frame_graph(rng.uniform(0, 4, (n, 3)), np.arange(n) % 2, None, subject.neighbors)
        hood = collate([graph])
        expected = subject.derivatives(hood, 1)
        atomic, gradient = run(*hood.tensors())
        torch.testing.assert_close(atomic, expected.atomic_energy, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, expected.edge_gradient, rtol=0, atol=1e-12)
