"""Tracing of descriptors with typed places: every kind of list, sizes of 0 and 1, and many elements."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsim import ops
from dpsim.export.compile import example_inputs, trace
from dpsim.model.compress import compress
from dpsim.model.config import ModelConfig
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import frame_graph

pytestmark = pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")
SIZES = {"rcut": 4.0, "rcut_smth": 2.0, "sel": 20, "neuron": (2,)}
HYBRID = {
    "type": "hybrid",
    "list": [
        {"type": "se_e2_a", "axis_neuron": 1, "type_one_side": True, **SIZES},
        {"type": "se_e2_r", "exclude_types": ((0, 1),), **SIZES},
        {"type": "se_e3", **SIZES | {"rcut": 3.0}},
    ],
}


def evaluate(model, n_atoms):
    positions = np.random.default_rng(n_atoms).uniform(0, 4, (n_atoms, 3))
    hood = collate([frame_graph(positions, np.arange(n_atoms) % 2, None, model.neighbors)])
    hood = hood._replace(displacements=hood.displacements.requires_grad_(True))
    energy = model(hood)
    (slope,) = torch.autograd.grad(energy.sum(), hood.displacements)
    return [tensor.detach() for tensor in hood.tensors()], energy.detach(), slope


def test_sizes_stay_symbolic():
    config = {"type_map": ("O", "H"), "descriptor": HYBRID, "fitting": {"neuron": (2,)}}
    model = ModelConfig.model_validate(config).build(1)
    for name, buffer in model.named_buffers():
        if name.endswith("environment.mean"):
            buffer[..., 0] = 0.1
    program, _ = trace(model, "cpu")
    run = program.module()
    for n_atoms in (0, 1, 2, 3, 9):
        inputs, energy, slope = evaluate(model, n_atoms)
        atomic, gradient = run(*inputs)
        torch.testing.assert_close(atomic, energy, rtol=0, atol=1e-13)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-13)


def test_tables_are_traced():
    config = {"type_map": ("O", "H"), "descriptor": {"type": "se_e2_r", **SIZES}, "fitting": {"neuron": (2,)}}
    model = compress(ModelConfig.model_validate(config).build(1), 0.5).model
    program, _ = trace(model, "cpu")
    names = {str(node.target) for node in program.graph.nodes}
    assert {"dpsim.tabulate_sum.default", "dpsim.tabulate_sum_backward.default"} <= names
    run = program.module()
    for n_atoms in (1, 2, 9):
        inputs, energy, slope = evaluate(model, n_atoms)
        atomic, gradient = run(*inputs)
        torch.testing.assert_close(atomic, energy, rtol=0, atol=1e-13)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kind", "n_types"), [("se_e2_a", 20), ("se_e2_r", 40), ("se_e3", 8)])
def test_examples_for_many_elements(kind, n_types):
    """All sizes differ, those of several hundred lists too."""
    elements = tuple(f"X{n}" for n in range(n_types))
    descriptor = {"type": kind, **SIZES, "neuron": (4,)}
    model = ModelConfig.model_validate({"type_map": elements, "descriptor": descriptor}).build()
    hood = Neighborhood.from_tensors(model.neighbors, model.inputs, example_inputs(model, "cpu"))
    expected = {"se_e2_a": n_types**2, "se_e2_r": n_types, "se_e3": n_types * (n_types + 1) // 2}
    sizes = [hood.n_atoms, len(hood.row_types), len(hood.center), *(len(one.edge) for one in hood.inner)]
    assert len(hood.inner) == expected[kind]
    assert len(set(sizes)) == len(sizes)
