"""Functions of one number from tables of quintic polynomials, with their derivatives of any order.

The derivatives are those of the polynomials, which join with two continuous derivatives: forces from a table are the
exact gradient of the energy from it. E items, M functions, S intervals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.outer import edge_outer_sum


def tabulate(x: Tensor, table: Tensor, grid: Tensor) -> Tensor:
    """Values ``(E, M)`` at `x` (E,) of M functions.

    Parameters
    ----------
    table
        ``(S, 6, M)``: coefficients of the polynomials in the distance from the lower end of the interval, constants
        first. It is not differentiated.
    grid
        ``(7,)`` float64: start, lower, upper and end, and the numbers of intervals of equal width in
        ``[start, lower)``, ``[lower, upper)`` and ``[upper, end)``. Outside the functions are straight lines.
    """
    return torch.ops.dpsim.tabulate(x, table, grid, 0) if native(x) else reference.tabulate(x, table, grid)


def tabulate_sum(x: Tensor, r: Tensor, table: Tensor, grid: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
    """Sum over the items of each segment of ``r ⊗ tabulate(x)``, without storing the latter: ``(S, K, M)``.

    Differentiable twice, more often within `dpsim.ops.any_order`.

    Parameters
    ----------
    x, r
        ``(E,)`` and ``(E, K)``, sorted by segment.
    ptr, like
        ``(S+1,)`` row pointers of the segments, and any tensor with S rows.
    """
    if native(x) and not is_any_order() and 1 <= r.shape[1] <= _MOST_ROWS:
        return torch.ops.dpsim.tabulate_sum(x, r, table, grid, ptr, like.shape[0])
    return edge_outer_sum(r, tabulate(x, table, grid), ptr, like)


_MOST_ROWS = 4


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.order = inputs[-1]


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
    x, table, grid = ctx.saved_tensors
    return torch.ops.dpsim.tabulate_dot(x, table, g, grid, ctx.order + 1), None, None, None


def _dot_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
    x, table, g, grid = ctx.saved_tensors
    need_x, _, need_g, *_ = ctx.needs_input_grad
    dx = d * torch.ops.dpsim.tabulate_dot(x, table, g, grid, ctx.order + 1) if need_x else None
    dg = d.unsqueeze(1) * torch.ops.dpsim.tabulate(x, table, grid, ctx.order) if need_g else None
    return dx, None, dg, None, None


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])


def _sum_backward(ctx: Any, t: Tensor) -> tuple[Tensor | None, ...]:
    dx, dr = torch.ops.dpsim.tabulate_sum_backward(t, *ctx.saved_tensors)
    return dx, dr, None, None, None, None


def _save_sum_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _sum_double_backward(ctx: Any, ux: Tensor | None, ur: Tensor | None) -> tuple[Tensor | None, ...]:
    if ux is None and ur is None:
        return (None,) * 6
    return (*torch.ops.dpsim.tabulate_sum_double_backward(ux, ur, *ctx.saved_tensors), None, None, None)


def _fake_sum(x: Tensor, r: Tensor, table: Tensor, grid: Tensor, ptr: Tensor, segments: int) -> Tensor:
    return x.new_empty((segments, r.shape[1], table.shape[2]))


def _fake_sum_backward(t: Tensor, x: Tensor, r: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), r.new_empty(r.shape)


def _fake_sum_double_backward(ux: Tensor | None, ur: Tensor | None, t: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return t.new_empty(t.shape), *_fake_sum_backward(t, *rest)


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::tabulate", lambda x, table, grid, order: x.new_empty((x.shape[0], table.shape[2])))
    fake("dpsim::tabulate_dot", lambda x, table, g, grid, order: x.new_empty(x.shape))
    fake("dpsim::tabulate_sum", _fake_sum)
    fake("dpsim::tabulate_sum_backward", _fake_sum_backward)
    fake("dpsim::tabulate_sum_double_backward", _fake_sum_double_backward)
    autograd("dpsim::tabulate_sum", _sum_backward, setup_context=_save_sum)
    autograd("dpsim::tabulate_sum_backward", _sum_double_backward, setup_context=_save_sum_backward)
    autograd("dpsim::tabulate", _backward, setup_context=_save)
    autograd("dpsim::tabulate_dot", _dot_backward, setup_context=_save)
