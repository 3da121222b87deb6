"""Tables of quintics: the native operator against the plain one, its derivatives, and straight lines outside."""

from __future__ import annotations

import itertools

import pytest
import torch
from operator_cases import pointers
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops
from dpsim.ops import reference

pytestmark = pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")
GRIDS = {
    "both sides": [-6.0, -2.0, 3.0, 7.0, 2.0, 10.0, 4.0],
    "above": [-2.0, -2.0, 3.0, 7.0, 0.0, 10.0, 4.0],
    "one width": [-2.0, -2.0, 3.0, 3.0, 0.0, 10.0, 0.0],
}


def table_of(grid: list[float], columns: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(columns)
    table = torch.randn(int(sum(grid[4:])), 6, columns, generator=g, dtype=torch.float64)
    return table.to(dtype), torch.tensor(grid, dtype=torch.float64)


def numbers(grid: list[float]) -> Tensor:
    """In every part of a grid, at its bounds and outside, but at no inner node."""
    parts = itertools.pairwise(grid[:4])
    inside = [low + 0.37 * (high - low) * k for low, high in parts for k in (0.01, 1, 2)]
    return torch.tensor([grid[0] - 2.5, *grid[:4], *inside, grid[3] + 3.0], dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("columns", [1, 5, 16, 45])
@pytest.mark.parametrize("name", GRIDS)
def test_values_and_derivatives(name: str, columns: int) -> None:
    table, grid = table_of(GRIDS[name], columns)
    x = numbers(GRIDS[name])
    got, expected = ops.tabulate(x, table, grid), reference.tabulate(x, table, grid)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    cotangent = torch.randn_like(expected).requires_grad_()
    for _ in range(3):
        (got,) = torch.autograd.grad(got, x, cotangent, create_graph=True)
        (expected,) = torch.autograd.grad(expected, x, cotangent, create_graph=True)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        cotangent = torch.randn_like(got)


def test_finite_differences_to_second_order() -> None:
    table, grid = table_of(GRIDS["both sides"], 3)
    x = torch.tensor([-5.1, -1.77, 0.31, 2.9, 4.7], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.tabulate(x, table, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.tabulate(x, table, grid), x)


def test_outside_the_functions_are_straight_lines() -> None:
    table, grid = table_of(GRIDS["both sides"], 4)
    x = torch.tensor([-6.0, -8.0, -10.0, 7.0, 9.0, 11.0], dtype=torch.float64).requires_grad_()
    y = ops.tabulate(x, table, grid)
    for low, middle, high in (y[:3], y[3:]):
        torch.testing.assert_close(middle - low, high - middle)
    (slope,) = torch.autograd.grad(y[:, 0].sum(), x, create_graph=True)
    torch.testing.assert_close(slope[1:3], slope[:1].expand(2))
    torch.testing.assert_close(2.0 * slope[4:], (y[4:, 0] - y[3:5, 0]).detach(), rtol=1e-12, atol=0)
    (curvature,) = torch.autograd.grad(slope[[1, 2, 4, 5]].sum(), x)
    assert not curvature.any()


def test_numbers_belong_to_the_interval_above_a_node() -> None:
    """Intervals hold their lower ends: the polynomial that is taken is the one that starts there."""
    grid = GRIDS["both sides"]
    table = torch.arange(16.0, dtype=torch.float64)[:, None, None] * torch.eye(6, dtype=torch.float64)[0, :, None]
    x = torch.tensor([-6.0, -4.0, -2.0, -1.5, 2.5, 3.0, 4.0, 6.99, 7.0, 99.0], dtype=torch.float64)
    found = ops.tabulate(x, table, torch.tensor(grid, dtype=torch.float64))[:, 0]
    assert found.tolist() == [0, 1, 2, 3, 11, 12, 13, 15, 15, 15]


def test_not_a_number_stays_one() -> None:
    table, grid = table_of(GRIDS["above"], 3)
    assert ops.tabulate(torch.tensor([float("nan")], dtype=torch.float64), table, grid).isnan().all()


def test_float32_and_no_items() -> None:
    table, grid = table_of(GRIDS["above"], 20, torch.float32)
    x = numbers(GRIDS["above"]).detach()[1:-1].to(torch.float32)
    got, exact = ops.tabulate(x, table, grid), reference.tabulate(x.double(), table.double(), grid)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(reference.tabulate(x, table, grid).double(), exact, rtol=1e-5, atol=1e-4)
    assert ops.tabulate(x[:0], table, grid).shape == (0, 20)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.0, 0.0, 3.0, 7.0, 0.0, 10.0, 4.0], r"as many intervals as the table \(13\)"),
        ([-2.0, 0.0, 3.0, 7.0, 0.0, 9.0, 4.0], "the grid must ascend"),
        ([0.0, 0.0, 3.0, 2.0, 0.0, 9.0, 4.0], "the grid must ascend"),
        ([0.0, 0.0, 3.0], r"expected float64 \(7\)"),
    ],
)
def test_wrong_grids(grid: list[float], message: str) -> None:
    table = torch.zeros(13, 6, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=message):
        ops.tabulate(torch.zeros(1, dtype=torch.float64), table, torch.tensor(grid, dtype=torch.float64))


def sum_case(name: str, columns: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    table, grid = table_of(GRIDS[name], columns)
    x = numbers(GRIDS[name]).detach().repeat(2).requires_grad_()
    r = torch.randn(len(x), rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    return x, r, table, grid, pointers([2, 0, 9, len(x) - 11])


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("columns", [1, 16, 45])
@pytest.mark.parametrize("name", GRIDS)
def test_sums_and_their_derivatives(name: str, columns: int, rows: int) -> None:
    x, r, table, grid, ptr = sum_case(name, columns, rows)
    found = []
    for value in (
        ops.tabulate_sum(x, r, table, grid, ptr, ptr[1:]),
        reference.edge_outer_sum(r, reference.tabulate(x, table, grid), ptr, 4),
    ):
        first = torch.autograd.grad((value**2).sum(), (x, r), create_graph=True)
        second = torch.autograd.grad((first[0] ** 2).sum() + (first[1] ** 3).sum(), (x, r))
        found.append([value, *first, *second])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12 * float(expected.detach().abs().max()))


def test_sums_by_finite_differences_to_second_order() -> None:
    table, grid = table_of(GRIDS["both sides"], 3)
    x = torch.tensor([-5.1, -1.77, 0.31, 2.9, 4.7], dtype=torch.float64).requires_grad_()
    r, ptr = torch.randn(5, 2, dtype=torch.float64, requires_grad=True), pointers([2, 0, 3])
    assert torch.autograd.gradcheck(lambda x, r: ops.tabulate_sum(x, r, table, grid, ptr, ptr[1:]), (x, r))
    assert torch.autograd.gradgradcheck(lambda x, r: ops.tabulate_sum(x, r, table, grid, ptr, ptr[1:]), (x, r))


def test_sums_in_float32_of_no_items_and_of_any_order() -> None:
    x, r, table, grid, ptr = sum_case("above", 20, 4)
    single = ops.tabulate_sum(x.float(), r.float(), table.float(), grid, ptr, ptr[1:])
    assert single.dtype == torch.float32
    exact = ops.tabulate_sum(x, r, table, grid, ptr, ptr[1:])
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.detach().abs().max()))
    none = torch.zeros(3, dtype=torch.int64)
    assert ops.tabulate_sum(x[:0], r[:0], table, grid, none, none[1:]).equal(torch.zeros(2, 4, 20, dtype=torch.float64))
    with ops.any_order():
        value = ops.tabulate_sum(x, r, table, grid, ptr, ptr[1:]).sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert value.isfinite().all()


def test_sums_pass_torchs_own_checks() -> None:
    x, r, table, grid, ptr = sum_case("above", 5, 4)
    torch.library.opcheck(torch.ops.dpsim.tabulate_sum, (x, r, table, grid, ptr, 4))
    t = torch.randn(4, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.dpsim.tabulate_sum_backward, (t, x, r, table, grid, ptr))
    torch.library.opcheck(
        torch.ops.dpsim.tabulate_sum_double_backward, (None, torch.randn_like(r), t, x, r, table, grid, ptr),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"r has 5 columns, expected 1..4"):
        torch.ops.dpsim.tabulate_sum(x, torch.cat([r, r[:, :1]], dim=1), table, grid, ptr, 4)


def test_operators_pass_torchs_own_checks() -> None:
    table, grid = table_of(GRIDS["both sides"], 5)
    x = numbers(GRIDS["both sides"])
    g = torch.randn(len(x), 5, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.dpsim.tabulate, (x, table, grid, 0))
    torch.library.opcheck(torch.ops.dpsim.tabulate_dot, (x, table, g, grid, 1))


def test_sizes_stay_symbolic_in_a_graph() -> None:
    table, grid = table_of(GRIDS["both sides"], 5)

    def slope(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad((ops.tabulate(x, table, grid) ** 2).sum(), x)
        return found

    graph = make_fx(slope, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.zeros(7, dtype=torch.float64))
    for n in (0, 1, 4):
        x = torch.linspace(-7, 8, n, dtype=torch.float64)
        torch.testing.assert_close(graph(x), slope(x))
