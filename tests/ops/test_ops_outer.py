"""Sums of outer products against plain PyTorch, and their closure under differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import pointers
from torch import Tensor

from dpsim import ops
from dpsim.ops import reference

PTR = pointers([3, 0, 1, 5])


def tensors(columns: int, dtype: torch.dtype = torch.float64, rows: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(columns)
    shapes = {"t": (4, rows, columns), "h": (9, rows), "g": (9, columns)}
    return {name: torch.randn(s, generator=g, dtype=dtype).requires_grad_() for name, s in shapes.items()}


OPERATORS = [(ops.edge_outer_sum, "hg"), (ops.edge_outer_dot, "tg"), (ops.edge_outer_mix, "th")]
PLAIN = {
    ops.edge_outer_sum: lambda h, g, ptr: reference.edge_outer_sum(h, g, ptr, len(ptr) - 1),
    ops.edge_outer_dot: reference.edge_outer_dot,
    ops.edge_outer_mix: reference.edge_outer_mix,
}


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("columns", [1, 5, 16, 45])
@pytest.mark.parametrize(("operator", "names"), OPERATORS)
def test_values_and_derivatives(operator: Callable[..., Tensor], names: str, columns: int, rows: int) -> None:
    leaves = [tensors(columns, rows=rows)[name] for name in names]
    got, expected = operator(*leaves, PTR), PLAIN[operator](*leaves, PTR)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("operator", "names"), OPERATORS)
def test_finite_differences_to_second_order(operator: Callable[..., Tensor], names: str) -> None:
    leaves = [tensors(2)[name] for name in names]
    assert torch.autograd.gradcheck(lambda *a: operator(*a, PTR), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: operator(*a, PTR), leaves)


def test_symmetrisation_to_second_order() -> None:
    """The use in DPA-3: a square of the sum, so that every product of derivatives occurs."""

    def square(contract: Callable[..., Tensor], h: Tensor, g: Tensor) -> Tensor:
        total = contract(h, g, PTR)
        return torch.einsum("nkm,nkd->nmd", total[:, :, :2], total)

    t = tensors(5)
    assert torch.autograd.gradgradcheck(lambda h, g: square(ops.edge_outer_sum, h, g), (t["h"], t["g"]))


INDEX = torch.tensor([0, 4, 4, 1, 3, 3, 0, 4, 3])  # of 6 rows, one of which no edge names


@pytest.mark.parametrize("columns", [1, 5, 16, 45])
def test_neighbours_share_rows(columns: int, threads: Callable[[int], None]) -> None:
    """Values and derivatives of first and second order are those of gathered rows, on any number of threads."""
    t = tensors(columns)
    rows = torch.randn(6, columns, dtype=torch.float64, requires_grad=True)
    leaves = (t["h"], rows)

    def derivatives(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        value = function(*leaves)
        first = torch.autograd.grad((value * t["t"].detach()).pow(2).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(f.sin().sum() for f in first), leaves)
        return [value, *first, *second]

    expected = derivatives(lambda h, g: reference.edge_outer_sum(h, g.index_select(0, INDEX), PTR, 4))
    found = []
    for count in (1, 2):
        threads(count)
        found.append(derivatives(lambda h, g: ops.neighbor_outer_sum(h, g, PTR, INDEX, t["t"])))
    for one, two, wanted in zip(*found, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-11, atol=1e-11)
        assert one.equal(two)


def test_neighbour_operators_pass_torchs_own_checks() -> None:
    t = tensors(5)
    rows = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    operators = torch.ops.dpsim
    torch.library.opcheck(operators.neighbor_outer_sum, (t["h"], rows, PTR, INDEX, 4))
    torch.library.opcheck(operators.neighbor_outer_dot, (t["t"], rows, PTR, INDEX))
    torch.library.opcheck(operators.neighbor_outer_mix, (t["t"], t["h"], PTR, INDEX, 6))
    assert torch.autograd.gradgradcheck(lambda h, g: operators.neighbor_outer_sum(h, g, PTR, INDEX, 4), (t["h"], rows))
    with pytest.raises(RuntimeError, match="an index is outside"):
        operators.neighbor_outer_sum(t["h"], rows[:3], PTR, INDEX, 4)
    none = torch.zeros(1, dtype=torch.int64)
    assert operators.neighbor_outer_mix(torch.zeros(0, 3, 4), torch.zeros(0, 3), none, none[:0], 2).equal(
        torch.zeros(2, 4)
    )


def test_float32_and_result_rows() -> None:
    t = tensors(20, torch.float32)
    got = ops.edge_outer_sum(t["h"], t["g"], PTR, PTR[1:])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, reference.edge_outer_sum(t["h"], t["g"], PTR, 4))
    with pytest.raises(RuntimeError, match=r"expected int64 \(6\) for 5 segments"):
        ops.edge_outer_sum(t["h"], t["g"], PTR, PTR)


def test_empty() -> None:
    none = torch.zeros(1, dtype=torch.int64)
    assert ops.edge_outer_sum(torch.zeros(0, 3), torch.zeros(0, 4), none).shape == (0, 3, 4)
    assert ops.edge_outer_sum(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(3, dtype=torch.int64)).equal(
        torch.zeros(2, 3, 4)
    )
    assert ops.edge_outer_dot(torch.zeros(0, 3, 4), torch.zeros(0, 4), none).shape == (0, 3)
    assert ops.edge_outer_mix(torch.zeros(0, 3, 4), torch.zeros(0, 3), none).shape == (0, 4)


def test_operators_pass_torchs_own_checks() -> None:
    t = tensors(5)
    torch.library.opcheck(torch.ops.dpsim.edge_outer_sum, (t["h"], t["g"], PTR, 4))
    torch.library.opcheck(torch.ops.dpsim.edge_outer_dot, (t["t"], t["g"], PTR))
    torch.library.opcheck(torch.ops.dpsim.edge_outer_mix, (t["t"], t["h"], PTR))
