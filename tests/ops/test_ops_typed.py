"""Products of rows with the matrix of their type: against plain PyTorch, and their closure under differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dpsim import ops
from dpsim.ops import reference

TYPES = {"mixed": [1, 0, 1, 1, 3, 0], "sorted": [0, 0, 1, 1, 1, 3], "one type": [2, 2, 2, 2, 2, 2]}
N_TYPES = 4


def tensors(rows: int = 6) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (rows, 5), "w": (N_TYPES, 5, 3), "g": (rows, 3)}
    return {name: torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for name, s in shapes.items()}


def matmul(module: Any, x: Tensor, w: Tensor, types: Tensor) -> Tensor:
    return module.typed_matmul(x, w.unbind(), types, transpose=False)


def transposed(module: Any, g: Tensor, w: Tensor, types: Tensor) -> Tensor:
    return module.typed_matmul(g, w.unbind(), types, transpose=True)


def outer(module: Any, x: Tensor, g: Tensor, types: Tensor) -> Tensor:
    return module.typed_outer(x, g, types, N_TYPES)


OPERATORS = [(matmul, "xw"), (transposed, "gw"), (outer, "xg")]


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("operator", "names"), OPERATORS)
def test_values_and_derivatives(operator: Callable[..., Tensor], names: str, types: str) -> None:
    leaves, of = [tensors()[name] for name in names], torch.tensor(TYPES[types])
    got, expected = operator(ops, *leaves, of), operator(reference, *leaves, of)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    cotangent = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("operator", "names"), OPERATORS)
def test_finite_differences_to_second_order(operator: Callable[..., Tensor], names: str) -> None:
    leaves, types = [tensors()[name] for name in names], torch.tensor(TYPES["mixed"])
    assert torch.autograd.gradcheck(lambda *a: operator(ops, *a, types), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: operator(ops, *a, types), leaves)


def test_no_rows() -> None:
    none, types = tensors(0), torch.zeros(0, dtype=torch.int64)
    assert matmul(ops, none["x"], none["w"], types).shape == (0, 3)
    assert outer(ops, none["x"], none["g"], types).equal(torch.zeros(N_TYPES, 5, 3, dtype=torch.float64))


def test_wrong_arguments() -> None:
    t, types = tensors(), torch.tensor(TYPES["mixed"])
    with pytest.raises(RuntimeError, match="x has 3 columns, expected 5"):
        matmul(ops, t["g"], t["w"], types)
    with pytest.raises(RuntimeError, match=r"index is Long\[5\], expected int64 \(6\)"):
        matmul(ops, t["x"], t["w"], types[1:])
    with pytest.raises(RuntimeError, match=r"an index is outside 0..2"):
        ops.typed_matmul(t["x"], t["w"].unbind()[:3], types)
    with pytest.raises(RuntimeError, match=r"the matrix of type 1 is Double\[3, 5\], expected Double\[5, 3\]"):
        ops.typed_matmul(t["x"], [t["w"][0], t["w"][1].mT], torch.zeros_like(types))


def test_operators_pass_torchs_own_checks() -> None:
    t, types = tensors(), torch.tensor(TYPES["mixed"])
    weights = [one.detach().clone().requires_grad_() for one in t["w"]]
    torch.library.opcheck(torch.ops.dpsim.typed_matmul, (t["x"], weights, types, False))
    torch.library.opcheck(torch.ops.dpsim.typed_matmul, (t["g"], weights, types, True))
    torch.library.opcheck(torch.ops.dpsim.typed_outer, (t["x"], t["g"], types, N_TYPES))
