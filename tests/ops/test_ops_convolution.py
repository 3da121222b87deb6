"""Outer sums with weighted rows against plain PyTorch: values, two derivatives, any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import pointers
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops
from dpsim.ops import reference

COUNTS = [3, 0, 1, 40]


def tensors(
    counts: list[int], kept: int = 3, summed: int = 5, columns: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    """h, g and weight, and the pointers."""
    g = torch.Generator().manual_seed(kept)
    ptr = pointers(counts)
    shapes = ((int(ptr[-1]), kept + summed), (int(ptr[-1]), columns), (summed, columns))
    return [torch.randn(*s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes], ptr


def native(leaves: list[Tensor], ptr: Tensor) -> tuple[Tensor, Tensor]:
    return ops.edge_convolution(*leaves, ptr, ptr[1:])


def plain(leaves: list[Tensor], ptr: Tensor) -> tuple[Tensor, Tensor]:
    return reference.edge_convolution(*leaves, ptr, len(ptr) - 1)


def derivatives(found: tuple[Tensor, Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Values, gradients by all, and gradients of those by h and g as a loss on forces has them."""
    h, g, weight = leaves
    value = (found[0] ** 2).sum() + (found[1] ** 3).sum()
    by_h, by_g = torch.autograd.grad(value, (h, g), create_graph=True)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    loss = (by_h**2).sum() + by_g.sum()
    second = torch.autograd.grad(loss, leaves, retain_graph=True)
    return [*found, *first, *second, *torch.autograd.grad(loss, weight, retain_graph=True)]


@pytest.mark.parametrize("columns", [1, 8, 45])
@pytest.mark.parametrize("summed", [1, 6, 32])
@pytest.mark.parametrize("kept", [0, 3])
def test_values_and_derivatives(kept: int, summed: int, columns: int) -> None:
    leaves, ptr = tensors(COUNTS, kept, summed, columns)
    got, expected = derivatives(native(leaves, ptr), leaves), derivatives(plain(leaves, ptr), leaves)
    for a, b in zip(got, expected, strict=True):
        scale = float(b.detach().abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * scale)


def test_finite_differences_to_second_order() -> None:
    leaves, ptr = tensors([2, 0, 1], 1, 2, 2)
    assert torch.autograd.gradcheck(lambda *a: native(list(a), ptr), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: native(list(a), ptr), leaves)


def test_derivatives_of_any_order() -> None:
    leaves, ptr = tensors([2, 1])
    with ops.any_order():
        value = native(leaves, ptr)[1]
        for _ in range(3):
            (value,) = torch.autograd.grad((value**2).sum(), leaves[0], create_graph=True)
    assert value.isfinite().all()


def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None]) -> None:
    leaves, ptr = tensors(COUNTS * 30, 3, 32, 40)
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(derivatives(native(leaves, ptr), leaves))
    for several in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], several, strict=True))


def test_float32_and_no_edges() -> None:
    leaves, ptr = tensors(COUNTS, dtype=torch.float32)
    for a, b in zip(native(leaves, ptr), plain(leaves, ptr), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for counts in ([], [0, 0]):
        leaves, ptr = tensors(counts)
        for a, b in zip(derivatives(native(leaves, ptr), leaves), derivatives(plain(leaves, ptr), leaves), strict=True):
            assert a.equal(b)


def test_forces_cost_no_gradients_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, ptr = tensors(COUNTS)
    asked: list[tuple[bool, bool]] = []
    for name in ("edge_convolution_backward", "edge_convolution_double_backward"):
        whole = getattr(torch.ops.dpsim, name)

        def spy(*arguments: object, whole: Callable[..., object] = whole) -> object:
            asked.append(arguments[-2:])  # type: ignore[arg-type]
            return whole(*arguments)

        monkeypatch.setattr(torch.ops.dpsim, name, spy)
    (force,) = torch.autograd.grad((native(leaves, ptr)[1] ** 2).sum(), leaves[0], create_graph=True)
    assert asked == [(True, False)]
    (force**2).sum().backward(inputs=[leaves[2]])
    assert asked[1:] == [(False, True), (False, True)]


def test_wrong_arguments() -> None:
    leaves, ptr = tensors(COUNTS, 0)
    with pytest.raises(RuntimeError, match=r"h has 4 columns, expected at least as many as weight has rows \(5\)"):
        native([leaves[0][:, 1:], *leaves[1:]], ptr)
    with pytest.raises(RuntimeError, match=r"weight is Double\[5, 6\], expected Double\[5, 7\]"):
        native([*leaves[:2], leaves[2][:, 1:]], ptr)


def test_operators_pass_torchs_own_checks() -> None:
    leaves, ptr = tensors([2, 0, 3])
    torch.library.opcheck(torch.ops.dpsim.edge_convolution, (*leaves, ptr, 3))
    t = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 3, 7), (3, 7))]
    for asked in ((True, False), (False, True), (True, True)):
        some = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.dpsim.edge_convolution_backward, (*t, *leaves, ptr, *asked), test_utils=some)
        u = [torch.randn_like(leaf) for leaf in leaves[:2]]
        torch.library.opcheck(
            torch.ops.dpsim.edge_convolution_double_backward, (*u, *t, *leaves, ptr, *asked), test_utils=some
        )


def test_sizes_stay_symbolic_in_a_graph() -> None:
    weight = tensors([])[0][2].detach()

    def slope(h: Tensor, g: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
        h = h.detach().requires_grad_()
        moments, sums = ops.edge_convolution(h, g, weight, ptr, like)
        (found,) = torch.autograd.grad((moments.sum(1) * sums).sum(), h)
        return found

    def arguments(counts: list[int]) -> tuple[Tensor, ...]:
        (h, g, _), ptr = tensors(counts)
        return h.detach(), g.detach(), ptr, ptr[1:].clone()

    graph = make_fx(slope, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments([2, 3, 2]))
    for counts in ([], [0], [1], [4, 0, 9, 1]):
        torch.testing.assert_close(graph(*arguments(counts)), slope(*arguments(counts)))
