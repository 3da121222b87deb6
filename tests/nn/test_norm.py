"""Normalisation of rows."""

from __future__ import annotations

import pytest
import torch

from dpsim.nn.norm import LayerNorm, unit_rows

F64 = torch.float64


def test_layer_norm_by_its_formula():
    torch.manual_seed(0)
    norm, x = LayerNorm(5, eps=1e-3, dtype=F64), torch.randn(4, 5, dtype=F64)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5, dtype=F64))
        norm.bias.copy_(torch.randn(5, dtype=F64))
    spread = x.var(1, correction=0, keepdim=True)
    expected = norm.weight * (x - x.mean(1, keepdim=True)) / torch.sqrt(spread + 1e-3) + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=1e-13, atol=1e-13)
    assert norm(x[:0]).shape == (0, 5)


@pytest.mark.parametrize("trainable", [True, False])
def test_layer_norm_that_is_not_trained_keeps_its_numbers_in_the_state(trainable):
    norm = LayerNorm(3, trainable=trainable, dtype=F64)
    assert list(norm.state_dict()) == ["weight", "bias"]
    assert len(list(norm.parameters())) == (2 if trainable else 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_unit_rows(dtype):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]], dtype=dtype)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.1, 0.0]], dtype=dtype)
    torch.testing.assert_close(unit_rows(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_of_zero_rows_are_finite(dtype):
    x = torch.tensor([[0.0, 0.0], [0.5, 0.1]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    (first,) = torch.autograd.grad((unit_rows(x) * weight).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first[1] * weight[1]).sum(), x)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
