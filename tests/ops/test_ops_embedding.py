"""Sums of embeddings against plain PyTorch: values, first and second derivatives, and any number of threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from operator_cases import pointers
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops
from dpsim.ops import reference

NETWORKS = {
    "tanh": ops.Network((5, 10, 10), skip=False, activation=reference.TANH),
    "one layer": ops.Network((7,), skip=False, activation=reference.SILU),
    "skip": ops.Network((2, 4, 8), skip=True, activation=reference.TANH),
    "silut": ops.Network((25, 33, 40), skip=False, activation=reference.SILUT, threshold=0.7),
}


class Case(NamedTuple):
    x: Tensor
    r: Tensor
    kind: Tensor | None
    first: Tensor
    weights: Tensor
    ptr: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, self.r, self.first, self.weights]

    def __call__(self, function: Callable[..., Tensor], network: ops.Network, *leaves: Tensor) -> Tensor:
        x, r, first, weights = leaves or self.leaves
        if function is ops.embedding_sum:
            return ops.embedding_sum(x, r, self.kind, first, weights, self.ptr, network, self.ptr[1:])
        return reference.embedding_sum(x, r, self.kind, first, weights, self.ptr, len(self.ptr) - 1, *network)


def case(
    network: ops.Network,
    counts: list[int] | Tensor,
    *,
    kinds: int = 3,
    columns: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Case:
    g = torch.Generator().manual_seed(kinds)
    ptr = pointers(counts)
    items, widths = int(ptr[-1]), network.widths
    size = widths[0] + sum((a + 1) * b for a, b in itertools.pairwise(widths))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).mul_(0.7).to(dtype).requires_grad_()

    kind = torch.randint(0, kinds, (items,), generator=g) if kinds > 1 else None
    return Case(random(items), random(items, columns), kind, random(kinds, widths[0]), random(size), ptr)


MANY = torch.randint(0, 90, (60,), generator=torch.Generator().manual_seed(0))
"""Segments across the blocks of the kernel and the shares of threads."""


def derivatives(found: Tensor, one: Case, used: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Value, gradients by all, and gradients of those by x and r as a loss on forces has them."""
    first = torch.autograd.grad(used(found), one.leaves, create_graph=True)
    loss = (first[0] * torch.linspace(0.5, 1.5, len(first[0]), dtype=found.dtype)).sum() + (first[1] ** 2).sum()
    second = torch.autograd.grad(loss, one.leaves, retain_graph=True)
    by_parameters = torch.autograd.grad(loss, [one.first, one.weights], retain_graph=True)
    return [found, *first, *second, *by_parameters]


@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("columns", [1, 4, 9])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_derivatives(name: str, columns: int, kinds: int) -> None:
    one = case(NETWORKS[name], MANY, kinds=kinds, columns=columns)
    function = lambda t: (t**2).sum() + t.sum()  # noqa: E731
    got = derivatives(one(ops.embedding_sum, NETWORKS[name]), one, function)
    expected = derivatives(one(reference.embedding_sum, NETWORKS[name]), one, function)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.detach().abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_finite_differences_to_second_order(name: str) -> None:
    one = case(NETWORKS[name], [2, 0, 1], kinds=2, columns=2)
    assert torch.autograd.gradcheck(lambda *leaves: one(ops.embedding_sum, NETWORKS[name], *leaves), one.leaves)
    assert torch.autograd.gradgradcheck(
        lambda *leaves: one(ops.embedding_sum, NETWORKS[name], *leaves), one.leaves, atol=1e-4
    )


def test_derivatives_of_any_order() -> None:
    network = NETWORKS["tanh"]
    one = case(network, [2, 1], kinds=1, columns=1)
    with ops.any_order():
        value = one(ops.embedding_sum, network).sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value, one.x, create_graph=True)
            value = value.sum()
    (last,) = torch.autograd.grad(value, one.weights)
    assert last.isfinite().all()


@pytest.mark.parametrize("kinds", [1, 3])
def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None], kinds: int) -> None:
    network = NETWORKS["silut"]
    one = case(network, MANY.repeat(2), kinds=kinds)
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(derivatives(one(ops.embedding_sum, network), one, torch.sum))
    for several in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], several, strict=True))


def test_float32() -> None:
    network = NETWORKS["silut"]
    one = case(network, MANY, dtype=torch.float32)
    exact = Case(*(t.detach().double().requires_grad_() if t.is_floating_point() else t for t in one))
    got = derivatives(one(ops.embedding_sum, network), one, torch.sum)
    expected = derivatives(exact(reference.embedding_sum, network), exact, torch.sum)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize("counts", [[], [0, 0], [1]])
def test_few_items(counts: list[int]) -> None:
    network = NETWORKS["tanh"]
    one = case(network, counts, kinds=2)
    got = derivatives(one(ops.embedding_sum, network), one, torch.sum)
    for a, b in zip(got, derivatives(one(reference.embedding_sum, network), one, torch.sum), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_forces_cost_no_gradients_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forces are differentiated by the items, a loss on them by the parameters: nothing else is made."""
    network = NETWORKS["tanh"]
    one = case(network, [3, 2], kinds=1)
    asked: list[tuple[bool, bool]] = []
    for name in ("embedding_sum_backward", "embedding_sum_double_backward"):
        whole = getattr(torch.ops.dpsim, name)

        def spy(*arguments: object, whole: Callable[..., object] = whole) -> object:
            asked.append(arguments[-2:])  # type: ignore[arg-type]
            return whole(*arguments)

        monkeypatch.setattr(torch.ops.dpsim, name, spy)
    energy = (one(ops.embedding_sum, network) ** 2).sum()
    (force,) = torch.autograd.grad(energy, one.x, create_graph=True)
    assert asked == [(True, False)]
    (force**2).sum().backward(inputs=[one.weights])
    assert asked[1:] == [(False, True), (False, True)]
    assert one.weights.grad is not None


def test_wrong_arguments() -> None:
    network = NETWORKS["tanh"]
    one = case(network, [3, 2])
    with pytest.raises(RuntimeError, match="first has 3 rows, expected 1 where there are no kinds"):
        one._replace(kind=None)(ops.embedding_sum, network)
    with pytest.raises(RuntimeError, match=r"weights is Double\[175\], expected Double\[219\]"):
        one(ops.embedding_sum, network._replace(widths=(5, 10, 14)))
    assert one.kind is not None
    with pytest.raises(RuntimeError, match="an index is outside"):
        one._replace(kind=one.kind + 1)(ops.embedding_sum, network)


def test_operators_pass_torchs_own_checks() -> None:
    network = NETWORKS["silut"]
    one = case(network, [3, 0, 2])
    numbers = (list(network.widths), network.skip, network.activation, network.threshold)
    torch.library.opcheck(torch.ops.dpsim.embedding_sum, (*one, 3, *numbers))
    t = torch.randn(3, 4, 40, dtype=torch.float64, requires_grad=True)
    some = ("test_schema", "test_faketensor")
    for asked in ((True, False), (False, True), (True, True)):
        torch.library.opcheck(torch.ops.dpsim.embedding_sum_backward, (t, *one, *numbers, *asked), test_utils=some)
        u = torch.randn_like(one.x), torch.randn_like(one.r)
        torch.library.opcheck(
            torch.ops.dpsim.embedding_sum_double_backward, (*u, t, *one, *numbers, *asked), test_utils=some
        )


def test_sizes_stay_symbolic_in_a_graph() -> None:
    network = NETWORKS["tanh"]
    fixed = case(network, [])

    def slope(x: Tensor, r: Tensor, kind: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        first, weights = fixed.first.detach(), fixed.weights.detach()
        y = ops.embedding_sum(x, r, kind, first, weights, ptr, network, like)
        (found,) = torch.autograd.grad((y**2).sum(), x)
        return found

    def inputs(counts: list[int]) -> tuple[Tensor, ...]:
        one = case(network, counts)
        assert one.kind is not None
        return one.x.detach(), one.r.detach(), one.kind, one.ptr, one.ptr[1:].clone()

    graph = make_fx(slope, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs([2, 3, 2]))
    for counts in ([], [0], [1], [4, 0, 9, 1]):
        torch.testing.assert_close(graph(*inputs(counts)), slope(*inputs(counts)))
