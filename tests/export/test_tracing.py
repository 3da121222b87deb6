"""The traced graph: no operator that would be compiled to wrong numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsim import ops
from dpsim.export import compile as compiling
from dpsim.export.compile import trace
from dpsim.model.config import ModelConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph

pytestmark = pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")


@pytest.fixture
def model():
    return ModelConfig.tiny().build(1)


def test_a_model_passes_and_sizes_stay_symbolic(model):
    program, _ = trace(model, "cpu")
    run, rng = program.module(), np.random.default_rng(0)
    for n in (3, 8):
        graph = frame_graph(rng.uniform(0, 4, (n, 3)), np.arange(n) % 2, np.eye(3) * 5.0, model.neighbors)
        hood = collate([graph])
        hood = hood._replace(displacements=hood.displacements.requires_grad_(True))
        expected = model(hood)
        (slope,) = torch.autograd.grad(expected.sum(), hood.displacements)
        atomic, gradient = run(*(tensor.detach() for tensor in hood.tensors()))
        torch.testing.assert_close(atomic, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


WRONG = {
    "index_add": lambda x, index: x.index_select(0, index),
    "index_put": lambda x, index: x[index],
    "scatter_add": lambda x, index: x.gather(0, index[:, None].expand(-1, x.shape[1])),
}


@pytest.mark.parametrize("operator", WRONG)
def test_operators_that_are_compiled_wrongly_are_refused(model, monkeypatch, operator):
    """Their adjoints appear where rows of something differentiated are gathered with torch's own operators."""
    whole = compiling._Outputs.forward

    def forward(self, *inputs):
        atomic, gradient = whole(self, *inputs)
        displacements = inputs[0].detach().requires_grad_(True)
        rows = WRONG[operator](displacements, inputs[7])  # of the angle-edges
        (more,) = torch.autograd.grad((rows**2).sum(), displacements)
        return atomic, gradient + more

    monkeypatch.setattr(compiling._Outputs, "forward", forward)
    with pytest.raises(AssertionError, match=f"the graph holds aten.{operator}.* use dpsim.ops.gather_rows"):
        trace(model, "cpu")
