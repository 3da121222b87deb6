"""Gather, activate and reduce: values, first and second derivatives against plain PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from operator_cases import Case, fused_case
from torch import Tensor

from dpsim import ops
from dpsim.ops import reference
from dpsim.ops.reference import SILU, SILUT, TANH

EXACT = {"rtol": 1e-12, "atol": 1e-12}
Function = Callable[..., tuple[Tensor, Tensor]]
# Columns: below, at and beyond the width of a vector, all summed, none summed.
SHAPES = [(3, 4, 7, 3), (3, 4, 5, 5), (2, 3, 5, 0), (4, 2, 37, 20), (5, 3, 32, 16), (6, 6, 1, 1)]


def evaluate(function: Function, case: Case) -> list[Tensor]:
    return list(function(*case))


def first(function: Function, case: Case, cotangents: Sequence[Tensor | None], graph: bool = False) -> list[Tensor]:
    """Gradients by x, s, b and w; a cotangent of None means that this output is not used."""
    used = [(o, c) for o, c in zip(function(*case), cotangents, strict=True) if c is not None]
    outputs, given = zip(*used, strict=True)
    grads = torch.autograd.grad(outputs, case.leaves, given, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, case.leaves, strict=True)]


def second(
    function: Function, case: Case, cotangents: Sequence[Tensor | None], used: Sequence[bool], seed: int = 7
) -> list[Tensor]:
    """Gradients of a random linear form in some of the first derivatives, by everything that they depend on."""
    given = [c.clone().requires_grad_() if c is not None else None for c in cotangents]
    grads = first(function, case, given, graph=True)
    g = torch.Generator().manual_seed(seed)
    form = [(d * torch.randn(d.shape, generator=g, dtype=torch.float64).to(d.dtype)).sum() for d in grads]
    total = torch.stack([f for f, use in zip(form, used, strict=True) if use]).sum()
    by = [*case.leaves, *(c for c in given if c is not None)]
    found = torch.autograd.grad(total, by, allow_unused=True, materialize_grads=True)
    return list(found)


def cotangents_of(case: Case, seed: int = 3) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=g, dtype=o.dtype) for o in reference.gather_act_reduce(*case)]


def assert_close(got: Sequence[Tensor], expected: Sequence[Tensor], **tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or EXACT))


@pytest.mark.parametrize("activation", [SILU, SILUT, TANH])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_plain_version(shape: tuple[int, int, int, int], activation: int) -> None:
    case = fused_case(*shape, activation)
    cotangents = cotangents_of(case)
    for order in (
        evaluate,
        lambda f, c: first(f, c, cotangents),
        lambda f, c: second(f, c, cotangents, [True] * 4),
    ):
        assert_close(order(ops.gather_act_reduce, case), order(reference.gather_act_reduce, case))


ABSENT = [
    (outputs, used)
    for outputs in ((True, True), (True, False), (False, True))
    for used in itertools.product((True, False), repeat=4)
    # w does not enter the items: its gradient alone would have no graph.
    if any(used) and (outputs[0] or any(used[:3]))
]


@pytest.mark.parametrize(("outputs", "used"), ABSENT, ids=str)
def test_absent_cotangents(outputs: tuple[bool, bool], used: tuple[bool, ...]) -> None:
    case = fused_case(4, 3, 21, 9, SILUT)
    cotangents = [c if use else None for c, use in zip(cotangents_of(case), outputs, strict=True)]
    native, plain = (second(f, case, cotangents, used) for f in (ops.gather_act_reduce, reference.gather_act_reduce))
    assert_close(native, plain)


@pytest.mark.parametrize("activation", [SILU, SILUT, TANH])
def test_finite_differences(activation: int) -> None:
    case = fused_case(3, 2, 4, 2, activation, seed=2)

    def function(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gather_act_reduce(*leaves, *case.numbers())

    assert torch.autograd.gradcheck(function, case.leaves)
    assert torch.autograd.gradgradcheck(function, case.leaves)


def test_large_arguments_stay_finite() -> None:
    case = fused_case(3, 2, 40, 20, SILU)
    huge = case._replace(x=(case.x * 2000).detach().requires_grad_())
    cotangents = cotangents_of(huge)
    for values in (
        evaluate(ops.gather_act_reduce, huge),
        first(ops.gather_act_reduce, huge, cotangents),
        second(ops.gather_act_reduce, huge, cotangents, [True] * 4),
    ):
        assert all(v.isfinite().all() for v in values)


def test_float32_functions_are_exact_to_rounding() -> None:
    """Values and both derivatives of silu over its whole range, against float64."""
    x = torch.cat([torch.linspace(-100, 100, 20_001), torch.linspace(-1, 1, 4_001)])[:, None].requires_grad_()
    ptr, index, zero = torch.tensor([0, len(x)]), torch.zeros(len(x), dtype=torch.int64), torch.zeros(1, 1)

    def silu(x: Tensor) -> list[Tensor]:
        item = ops.gather_act_reduce(x, zero.to(x), zero.to(x), x[:, 0].detach(), ptr, index, 0, SILU)[1]
        (slope,) = torch.autograd.grad(item.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        return [item, slope, bend]

    for got, expected in zip(silu(x), silu(x.detach().double().requires_grad_()), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [SILU, SILUT, TANH])
def test_many_items(activation: int) -> None:
    case = fused_case(300, 90, 29, 13, activation, mean=20)
    cotangents = cotangents_of(case)
    tolerance = {"rtol": 1e-11, "atol": 1e-11}  # sums of some thousand terms, in another order
    for f in (evaluate, lambda f, c: first(f, c, cotangents), lambda f, c: second(f, c, cotangents, [True] * 4)):
        assert_close(f(ops.gather_act_reduce, case), f(reference.gather_act_reduce, case), **tolerance)


def test_float32() -> None:
    case = fused_case(40, 9, 48, 32, SILUT, mean=8, dtype=torch.float32)
    double = Case(*(t.detach().double().requires_grad_() for t in case.leaves), *case.numbers())
    cotangents = cotangents_of(double)
    single = [c.float() for c in cotangents]
    tolerance = {"rtol": 1e-5, "atol": 1e-4}
    for got, expected in (
        (evaluate(ops.gather_act_reduce, case), evaluate(reference.gather_act_reduce, double)),
        (first(ops.gather_act_reduce, case, single), first(reference.gather_act_reduce, double, cotangents)),
        (
            second(ops.gather_act_reduce, case, single, [True] * 3 + [False]),
            second(reference.gather_act_reduce, double, cotangents, [True] * 3 + [False]),
        ),
    ):
        assert {t.dtype for t in got} == {torch.float32}
        assert_close([t.double() for t in got], expected, **tolerance)


def test_one_and_two_threads_agree_bitwise(threads: Callable[[int], None]) -> None:
    case = fused_case(900, 200, 30, 17, SILUT, mean=12, dtype=torch.float32)
    cotangents = cotangents_of(case)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(
            evaluate(ops.gather_act_reduce, case)
            + first(ops.gather_act_reduce, case, cotangents)
            + second(ops.gather_act_reduce, case, cotangents, [True] * 4)
        )
    for one, two in zip(*results, strict=True):
        assert one.equal(two)


@pytest.mark.parametrize("shape", [(0, 0, 6, 4), (5, 0, 6, 4), (5, 3, 0, 0), (0, 3, 6, 6)], ids=str)
def test_empty_sizes(shape: tuple[int, int, int, int]) -> None:
    case = fused_case(*shape, SILU)
    cotangents = cotangents_of(case)
    for order in (evaluate, lambda f, c: first(f, c, cotangents), lambda f, c: second(f, c, cotangents, [True] * 4)):
        assert_close(order(ops.gather_act_reduce, case), order(reference.gather_act_reduce, case))


def test_operators_pass_torchs_own_checks() -> None:
    case = fused_case(3, 4, 7, 3, SILUT)
    go, gi = cotangents_of(case)
    backward = torch.ops.dpsim.gather_act_reduce_backward
    torch.library.opcheck(torch.ops.dpsim.gather_act_reduce, tuple(case))
    torch.library.opcheck(backward, (go.requires_grad_(), gi.requires_grad_(), *case))
    torch.library.opcheck(backward, (go, None, *case))
    plain = tuple(t.detach() if isinstance(t, Tensor) else t for t in case)
    double = torch.ops.dpsim.gather_act_reduce_double_backward
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    # Rows that are not contiguous: the fake kernels must announce the strides of the real ones.
    turned = tuple(t.t().contiguous().t() for t in plain[:3]) + plain[3:]
    torch.library.opcheck(torch.ops.dpsim.gather_act_reduce, turned, test_utils=checks)
    torch.library.opcheck(backward, (go.detach(), gi.detach(), *turned), test_utils=checks)
    torch.library.opcheck(double, (turned[0], None, None, None, go.detach(), gi.detach(), *turned), test_utils=checks)
    for gradients in ((go.detach(), gi.detach()), (go.detach(), None), (None, gi.detach())):
        torch.library.opcheck(double, (plain[0], None, None, None, *gradients, *plain), test_utils=checks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c1": 8}, r"c1 is 8, expected 0\.\.7"),
        ({"activation": 3}, "activation is 3, expected 0, 1 or 2"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, r"w is Double\[2\], expected Double\[\d+\]"),
        ({"b": torch.zeros(1, 7, dtype=torch.float64)}, r"an index is outside 0\.\.0"),
        ({"b": torch.zeros(4, 7)}, "b is Float"),
        ({"ptr": torch.tensor([0, 1, 2, 3])}, "must ascend from 0 to the number of items"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.gather_act_reduce(*fused_case(3, 4, 7, 3, SILU)._replace(**change))
