"""Segment sums and row gathers against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import pointers
from torch import Tensor

from dpsim import ops
from dpsim.ops import reference

PTR = pointers([3, 0, 1, 5, 0])
INDEX = torch.tensor([2, 0, 2, 3, 3, 3, 0, 2, 2])


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype).requires_grad_()


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]] = {
    "segment_sum": (lambda x: ops.segment_sum(x, PTR), lambda x: reference.segment_sum(x, PTR, 5), 9),
    "segment_sum_like": (
        lambda x: ops.segment_sum(x, PTR, PTR[1:]),
        lambda x: torch.stack([part.sum(0) for part in torch.tensor_split(x, PTR[1:-1])]),
        9,
    ),
    "segment_expand": (lambda y: ops.segment_expand(y, PTR, INDEX), lambda y: reference.segment_expand(y, PTR, 9), 5),
    "gather_rows": (lambda x: ops.gather_rows(x, INDEX), lambda x: x[INDEX], 5),
    "scatter_rows": (lambda g: ops.scatter_rows(g, INDEX, PTR), lambda g: reference.scatter_rows(g, INDEX, 6), 9),
}


@pytest.mark.parametrize("trailing", [(), (1,), (3,), (33,), (2, 7)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name: str, trailing: tuple[int, ...]) -> None:
    native, plain, rows = CASES[name]
    x = random(rows, *trailing)
    y, expected = native(x), plain(x)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, cotangent)[0], torch.autograd.grad(expected, x, cotangent)[0], rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name: str) -> None:
    native, _, rows = CASES[name]
    assert torch.autograd.gradgradcheck(lambda x: native(x**2), random(rows, 2))


@pytest.mark.parametrize("name", CASES)
def test_float32(name: str) -> None:
    native, plain, rows = CASES[name]
    x = random(rows, 20, dtype=torch.float32)
    assert native(x).dtype == torch.float32
    torch.testing.assert_close(native(x), plain(x))


def test_pairs_are_adjoint() -> None:
    x, y = random(9, 4), random(5, 4)
    assert torch.allclose((ops.segment_sum(x, PTR) * y).sum(), (x * ops.segment_expand(y, PTR, x)).sum())
    assert torch.allclose((ops.scatter_rows(x, INDEX, y) * y).sum(), (x * ops.gather_rows(y, INDEX)).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("trailing", [(), (3,), (33,), (2, 7)], ids=str)
def test_segment_max(trailing: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(9, *trailing, dtype=dtype) - 5.0  # the largest number is not always above the 0 of empty segments
    parts = torch.tensor_split(x.detach(), PTR[1:-1])
    expected = torch.stack([part.amax(0) if len(part) else torch.zeros(trailing, dtype=dtype) for part in parts])
    got = ops.segment_max(x, PTR, PTR[1:])
    assert got.equal(expected)
    assert not got.requires_grad
    assert reference.segment_max(x, PTR, 5).equal(expected)


def test_segment_max_of_numbers_that_are_not_finite() -> None:
    x = torch.tensor([-torch.inf, -torch.inf, 1.0, torch.nan, torch.inf, 2.0])[:, None]
    ptr = pointers([2, 2, 2])
    for got in (ops.segment_max(x, ptr, ptr[1:]), reference.segment_max(x, ptr, 3)):
        torch.testing.assert_close(got[:, 0], torch.tensor([-torch.inf, torch.nan, torch.inf]), equal_nan=True)


def test_segment_max_passes_no_gradient() -> None:
    """Also where the operator itself is given something differentiated, as in a graph without its detach nodes."""
    x = random(9, 2)
    (slope,) = torch.autograd.grad((torch.ops.dpsim.segment_max(x, PTR, 5) * 2).sum() + x.sum(), x)
    assert slope.equal(torch.ones_like(x))


def test_no_items_and_no_rows() -> None:
    none, nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert ops.segment_sum(torch.zeros(0, 3), torch.zeros(5, dtype=torch.int64)).equal(torch.zeros(4, 3))
    assert ops.segment_sum(torch.zeros(0, 3), none).shape == (0, 3)
    assert ops.segment_max(torch.zeros(0, 3), none, nothing).shape == (0, 3)
    assert ops.segment_max(torch.zeros(0, 3), torch.zeros(5, dtype=torch.int64), torch.zeros(4)).equal(
        torch.zeros(4, 3)
    )
    assert ops.segment_expand(torch.zeros(0, 3), none, nothing).shape == (0, 3)
    assert ops.gather_rows(torch.zeros(4, 0), INDEX[:0]).shape == (0, 0)
    assert ops.scatter_rows(torch.zeros(0, 3), nothing, torch.zeros(2)).equal(torch.zeros(2, 3))


def test_rows_need_not_be_contiguous() -> None:
    x = torch.randn(6, 9).t()
    assert ops.gather_rows(x, INDEX).equal(x[INDEX])
    assert ops.segment_sum(x, PTR).allclose(reference.segment_sum(x, PTR, 5))


def test_one_and_two_threads_agree_bitwise(threads: Callable[[int], None]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20_000, 24, generator=generator)
    ptr = pointers(torch.full((500,), 40))
    index = torch.randint(0, 900, (20_000,), generator=generator)
    results = []
    for count in (1, 2):
        threads(count)
        results.append((ops.segment_sum(x, ptr), ops.scatter_rows(x, index, torch.empty(900, 0))))
    for one, two in zip(*results, strict=True):
        assert one.equal(two)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.gather_rows(torch.zeros(2, 3), torch.tensor([0, 2])), r"gather_rows: an index is outside 0\.\.1"),
        (lambda: ops.gather_rows(torch.zeros(2, 3), torch.tensor([-1])), "an index is outside"),
        (lambda: ops.segment_sum(torch.zeros(4, 3), PTR), r"must ascend from 0 to the number of items \(4\)"),
        (lambda: ops.segment_sum(torch.zeros(9, 3), PTR, torch.zeros(7)), r"expected int64 \(8\) for 7 segments"),
        (lambda: ops.segment_max(torch.zeros(9, 3), PTR, torch.zeros(7)), r"expected int64 \(8\) for 7 segments"),
        (lambda: ops.segment_sum(torch.zeros(2), torch.tensor([0, 3, 2])), "must ascend"),
    ],
)
def test_wrong_indices_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


def test_operators_pass_torchs_own_checks() -> None:
    x = random(9, 4)
    for operator, arguments in (
        (torch.ops.dpsim.segment_sum, (x, PTR, 5)),
        (torch.ops.dpsim.segment_max, (x.detach(), PTR, 5)),
        (torch.ops.dpsim.segment_expand, (random(5, 4), PTR, 9)),
        (torch.ops.dpsim.gather_rows, (random(5, 4), INDEX)),
        (torch.ops.dpsim.scatter_rows, (x, INDEX, 5)),
    ):
        torch.library.opcheck(operator, arguments)
