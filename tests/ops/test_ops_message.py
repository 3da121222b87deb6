"""The fused operator with its linear map: values, first and second derivatives against plain PyTorch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from operator_cases import fused_case, pointers
from torch import Tensor

from dpsim import ops
from dpsim.ops import library
from dpsim.ops.reference import SILU, SILUT, TANH

EXACT = {"rtol": 1e-11, "atol": 1e-11}


class Message(NamedTuple):
    """Arguments of the operator: what can be differentiated by (None where absent), and the rest."""

    leaves: tuple[Tensor | None, ...]
    rest: tuple[Any, ...]

    def __call__(self, *leaves: Tensor | None) -> tuple[Tensor, Tensor]:
        a, weight, s, b, w, base, scale = leaves or self.leaves
        return ops.message(a, weight, s, b, w, *self.rest, base=base, scale=scale)

    @property
    def given(self) -> list[Tensor]:
        return [leaf for leaf in self.leaves if leaf is not None]


def message_case(
    segments: int, rows: int, columns: int, c1: int, activation: int, *, width: int = 5, residual: bool = True,
    mean: int = 3, dtype: torch.dtype = torch.float64, blocks: int = 0,
) -> Message:  # fmt: skip
    """Random arguments; with `blocks` the segments lie in blocks, and an item names a row of its block."""
    case = fused_case(segments, rows, columns, c1, activation, mean=mean, dtype=dtype)
    if blocks:
        ptr = pointers([segments // blocks] * segments)
        segment = torch.arange(segments).repeat_interleave(segments // blocks)
        index = segment // (segments // blocks) * (segments // blocks) + torch.arange(int(ptr[-1])) % (
            segments // blocks
        )
        case = case._replace(ptr=ptr, b_index=index)
    g = torch.Generator().manual_seed(5)
    items = int(case.ptr[-1])

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype).requires_grad_()

    a, weight, w = random(items, width), random(width, columns), random(items)
    extra = (random(items, columns - c1), random(columns - c1)) if residual else (None, None)
    return Message((a, weight, case.s, case.b, w, *extra), case.numbers())


def evaluate(case: Message) -> list[Tensor]:
    return list(case())


def first(case: Message, outputs: Sequence[bool] = (True, True), graph: bool = False) -> list[Tensor]:
    """Gradients of a random form in some of the outputs."""
    found = [o for o, use in zip(case(), outputs, strict=True) if use]
    return differentiate(found, case.given, graph)


def second(case: Message, outputs: Sequence[bool], used: Sequence[bool]) -> list[Tensor]:
    """Gradients of a random form in some of the first derivatives."""
    form = [grad for grad, use in zip(first(case, outputs, graph=True), used, strict=True) if use]
    return differentiate([f for f in form if f.requires_grad], case.given, False)


def differentiate(values: list[Tensor], by: list[Tensor], graph: bool) -> list[Tensor]:
    g = torch.Generator().manual_seed(7)
    cotangents = [torch.randn(v.shape, generator=g, dtype=torch.float64).to(v.dtype) for v in values]
    return list(
        torch.autograd.grad(values, by, cotangents, create_graph=graph, allow_unused=True, materialize_grads=True)
    )


def all_orders(case: Message) -> list[Tensor]:
    return evaluate(case) + first(case) + second(case, (True, True), [True] * len(case.given))


def assert_as_plain(function: Callable[[], list[Tensor]], **tolerance: float) -> None:
    native = function()
    with ops.any_order():
        plain = function()
    for a, b in zip(native, plain, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or EXACT))


SHAPES = [(3, 4, 7, 3), (3, 4, 5, 5), (2, 3, 5, 0), (4, 2, 37, 20), (5, 3, 32, 16), (6, 6, 1, 1), (0, 0, 6, 4)]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("activation", [SILU, SILUT, TANH])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_message_against_plain_version(shape: tuple[int, int, int, int], activation: int, residual: bool) -> None:
    case = message_case(*shape, activation, residual=residual)
    assert_as_plain(lambda: all_orders(case))


@pytest.mark.parametrize(
    ("outputs", "left_out"), [*itertools.product([(True, False), (False, True)], range(7))], ids=str
)
def test_message_with_absent_cotangents(outputs: tuple[bool, bool], left_out: int) -> None:
    case = message_case(4, 3, 21, 9, SILUT)
    for used in ([i == left_out for i in range(7)], [i != left_out for i in range(7)]):
        if any(g.requires_grad for g, use in zip(first(case, outputs, graph=True), used, strict=True) if use):
            assert_as_plain(lambda used=used: second(case, outputs, used))


@pytest.mark.parametrize("activation", [SILU, SILUT, TANH])
def test_message_by_finite_differences(activation: int) -> None:
    case = message_case(3, 2, 4, 2, activation)
    assert torch.autograd.gradcheck(case, case.leaves)
    assert torch.autograd.gradgradcheck(case, case.leaves)


@pytest.mark.parametrize("frozen", range(7))
def test_message_of_constants(frozen: int) -> None:
    case = message_case(3, 4, 7, 3, SILU)
    leaves = [leaf.detach() if i == frozen else leaf for i, leaf in enumerate(case.leaves)]
    fixed = case._replace(leaves=tuple(leaves))
    by = [leaf for leaf in leaves if leaf.requires_grad]
    assert_as_plain(lambda: differentiate(list(fixed()), by, False))


@pytest.mark.parametrize("blocks", [0, 30])
def test_message_of_many_items(blocks: int, threads: Callable[[int], None]) -> None:
    """Several chunks and parts; blocks may be added to by several threads at a time, others may not."""
    case = message_case(600, 600, 29, 13, SILUT, mean=20, blocks=blocks)
    assert_as_plain(lambda: all_orders(case), rtol=1e-10, atol=1e-10)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(all_orders(case))
    for one, two in zip(*results, strict=True):
        assert one.equal(two)


def test_message_in_float32() -> None:
    case = message_case(40, 9, 48, 32, SILUT, mean=8, dtype=torch.float32)
    double = case._replace(leaves=tuple(leaf.detach().double().requires_grad_() for leaf in case.leaves))
    for got, expected in zip(all_orders(case), all_orders(double), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-3)


def test_forces_make_no_derivatives_by_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pass that makes forces nobody asks for them; in the pass of the loss they are made."""
    case = message_case(3, 4, 7, 3, SILU)
    a, weight, s, b, w, base, scale = case.leaves
    asked = []
    for name in ("message_backward", "message_double_backward"):
        operator = getattr(torch.ops.dpsim, name)
        monkeypatch.setattr(torch.ops.dpsim, name, lambda *x, f=operator: asked.append(x[-1]) or f(*x))
    energy = sum(o.sum() for o in case(a, weight, s, b, w, base, scale))
    (force,) = torch.autograd.grad(energy, a, create_graph=True)
    force.square().sum().backward()
    assert asked == [False, True]
    assert weight.grad is not None
    assert scale.grad is not None


def test_message_passes_torchs_own_checks() -> None:
    case = message_case(3, 4, 7, 3, SILUT)
    a, weight, s, b, w, base, scale = case.leaves
    shared = (a, weight, s, b, w, scale, *case.rest)
    library.load()
    go, gi = (torch.randn_like(o).requires_grad_() for o in case())
    torch.library.opcheck(torch.ops.dpsim.message, (base, *shared))
    torch.library.opcheck(torch.ops.dpsim.message, (None, *shared[:5], None, *shared[6:]))
    for parameters in (True, False):
        torch.library.opcheck(torch.ops.dpsim.message_backward, (go, gi, *shared, parameters))
    plain = tuple(t.detach() if isinstance(t, Tensor) else t for t in shared)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    turned = tuple(t.t().contiguous().t() for t in plain[:4]) + plain[4:]
    torch.library.opcheck(torch.ops.dpsim.message, (base.detach(), *turned), test_utils=checks)
    for gradients in ((go.detach(), gi.detach()), (go.detach(), None), (None, gi.detach())):
        given = (plain[0], plain[1], None, None, None, None, *gradients, *plain, True)
        torch.library.opcheck(torch.ops.dpsim.message_double_backward, given, test_utils=checks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c1": 8}, r"c1 is 8, expected 0\.\.7"),
        ({"weight": torch.zeros(4, 7, dtype=torch.float64)}, r"weight is Double\[4, 7\], expected Double\[5, 7\]"),
        ({"scale": torch.zeros(3, dtype=torch.float64)}, r"scale is Double\[3\], expected Double\[4\]"),
        ({"base": torch.zeros(1, 4, dtype=torch.float64)}, "base is Double"),
    ],
)
def test_message_refuses_wrong_arguments(change: dict[str, Any], message: str) -> None:
    case = message_case(3, 4, 7, 3, SILU)
    names = ("a", "weight", "s", "b", "w", "base", "scale")
    rest = dict(zip(("ptr", "b_index", "c1", "activation", "threshold"), case.rest, strict=True))
    with pytest.raises(RuntimeError, match=message):
        ops.message(**(dict(zip(names, case.leaves, strict=True)) | rest | change))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("c1", "columns"), [(3, 5), (3, 3), (0, 4)])
def test_gradient_of_parameters_alone(c1: int, columns: int, scaled: bool) -> None:
    """What is not asked for is not made; what is asked for alone is what it is among all."""

    def gradient(operator: bool, alone: bool) -> Tensor:
        random = torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        a, weight, s, b, w = drawn(7, 2), drawn(2, columns), drawn(3, columns), drawn(4, columns), drawn(7)
        base, scale = (drawn(7, columns - c1), drawn(columns - c1)) if scaled else (None, None)
        leaves = [one.requires_grad_() for one in (drawn(2, 2), a, s, b, w)]
        ptr, index = torch.tensor([0, 3, 3, 7]), torch.tensor([0, 1, 2, 3, 0, 1, 2])
        with contextlib.nullcontext() if operator else ops.any_order():
            reduced, item = ops.message(a, leaves[0] @ weight, s, b, w, ptr, index, c1, 0, 0.0, base, scale)
        energy = reduced.sin().sum() + item.sin().sum()
        first = torch.autograd.grad(energy, [a, s], create_graph=True)
        loss = energy + sum(((one**2).sum() for one in first), torch.zeros(()))
        return torch.autograd.grad(loss, leaves[:1] if alone else leaves)[0]

    expected = gradient(operator=False, alone=False)
    for alone in (False, True):
        torch.testing.assert_close(gradient(operator=True, alone=alone), expected, rtol=1e-12, atol=1e-12)
