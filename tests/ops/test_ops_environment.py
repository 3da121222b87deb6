"""Environment of edges in one pass against plain PyTorch: values, two derivatives, edges beyond the cutoff."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import pointers
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops
from dpsim.ops import reference
from dpsim.physics.switch import exponential_switch, polynomial_switch

FADES = {
    "polynomial": ops.Fade(polynomial_switch, ops.POLYNOMIAL, 0.5, 2.0),
    "exponential": ops.Fade(exponential_switch, ops.EXPONENTIAL, 1.5, 2.0, 0.3),
}


def inputs(columns: int, counts: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Edges before the switch begins, within it, and beyond the cutoff."""
    g = torch.Generator().manual_seed(0)
    ptr = pointers(counts)
    d = torch.randn(int(ptr[-1]), 3, generator=g, dtype=torch.float64)
    length = torch.linspace(0.3, 2.5, len(d), dtype=torch.float64).unsqueeze(1)
    d = d / d.norm(dim=1, keepdim=True) * length
    mean, scale = torch.randn(2, 3, columns, generator=g, dtype=torch.float64)
    types = torch.randint(0, 3, (len(counts),), generator=g)
    return d.to(dtype).requires_grad_(), mean.to(dtype), scale.to(dtype), types, ptr


def derivatives(found: tuple[Tensor, Tensor, Tensor], d: Tensor, used: tuple[float, ...]) -> list[Tensor]:
    """Values, gradient, and gradient of a function of that, of the values that are used."""
    value = sum((weight * (one**2).sum() for weight, one in zip(used, found, strict=True) if weight), torch.zeros(()))
    (first,) = torch.autograd.grad(value, d, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), d)
    return [*found, first, second]


@pytest.mark.parametrize("used", [(1.0, 0.7, 0.4), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("name", FADES)
def test_values_and_derivatives(name: str, columns: int, used: tuple[float, ...]) -> None:
    d, *rest = inputs(columns, [3, 0, 1, 25])
    fade = FADES[name]
    got = derivatives(ops.environment(d, *rest, fade), d, used)
    expected = derivatives(reference.environment(d, *rest, *fade), d, used)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FADES)
def test_finite_differences_to_second_order(name: str) -> None:
    d, *rest = inputs(4, [2, 1])
    assert torch.autograd.gradcheck(lambda d: ops.environment(d, *rest, FADES[name]), d)
    assert torch.autograd.gradgradcheck(lambda d: ops.environment(d, *rest, FADES[name]), d)


def test_derivatives_of_any_order() -> None:
    d, *rest = inputs(4, [2, 1])
    with ops.any_order():
        value = ops.environment(d, *rest, FADES["polynomial"])[0].sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    assert value.isfinite().all()


def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None]) -> None:
    d, *rest = inputs(4, [40] * 300)
    found = []
    for number in (1, 2):
        threads(number)
        found.append(derivatives(ops.environment(d, *rest, FADES["polynomial"]), d, (1.0, 1.0, 1.0)))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_float32_and_no_edges() -> None:
    fade = FADES["polynomial"]
    d, *rest = inputs(4, [5, 9], torch.float32)
    found = ops.environment(d, *rest, fade)
    for a, b in zip(found, reference.environment(d, *rest, *fade), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for counts in ([], [0, 0]):
        d, *rest = inputs(4, counts)
        assert [tuple(one.shape) for one in derivatives(ops.environment(d, *rest, fade), d, (1, 1, 1))] == [
            (0, 4), (0,), (0,), (0, 3), (0, 3),
        ]  # fmt: skip


def test_wrong_arguments() -> None:
    d, mean, scale, types, ptr = inputs(4, [2, 1])
    fade = FADES["polynomial"]
    with pytest.raises(RuntimeError, match="mean has 3 columns, expected 1 or 4"):
        ops.environment(d, mean[:, 1:], scale[:, 1:], types, ptr, fade)
    with pytest.raises(RuntimeError, match="form is 2, expected 0 or 1"):
        ops.environment(d, mean, scale, types, ptr, fade._replace(form=2))
    with pytest.raises(RuntimeError, match="an index is outside"):
        ops.environment(d, mean, scale, types + 3, ptr, fade)


def test_operators_pass_torchs_own_checks() -> None:
    d, *rest = inputs(4, [2, 0, 3])
    numbers = FADES["polynomial"][1:]
    torch.library.opcheck(torch.ops.dpsim.environment, (d, *rest, *numbers))
    cotangents = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True), None, torch.ones(5, dtype=torch.float64)]
    torch.library.opcheck(torch.ops.dpsim.environment_backward, (*cotangents, d, *rest, *numbers))
    for positions in (True, False):
        torch.library.opcheck(
            torch.ops.dpsim.environment_double_backward,
            (d.detach(), *cotangents, d, *rest, *numbers, positions),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_sizes_stay_symbolic_in_a_graph() -> None:
    _, mean, scale, _, _ = inputs(4, [1])

    def slope(d: Tensor, types: Tensor, ptr: Tensor) -> Tensor:
        d = d.detach().requires_grad_()
        rows, sw, _ = ops.environment(d, mean, scale, types, ptr, FADES["polynomial"])
        (found,) = torch.autograd.grad((rows * sw.unsqueeze(1)).sum(), d)
        return found

    def arguments(counts: list[int]) -> tuple[Tensor, ...]:
        d, _, _, types, ptr = inputs(4, counts)
        return d.detach(), types, ptr

    graph = make_fx(slope, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments([2, 3, 2]))
    for counts in ([], [0], [1], [4, 0, 9, 1]):
        torch.testing.assert_close(graph(*arguments(counts)), slope(*arguments(counts)))
