"""Functions of one number from tables of quintic polynomials, with their derivatives of any order.

The derivatives are those of the polynomials, which join with two continuous derivatives: forces from a table are the
exact gradient of the energy from it. E items, M functions, S intervals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native


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


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::tabulate", lambda x, table, grid, order: x.new_empty((x.shape[0], table.shape[2])))
    fake("dpsim::tabulate_dot", lambda x, table, g, grid, order: x.new_empty(x.shape))
    autograd("dpsim::tabulate", _backward, setup_context=_save)
    autograd("dpsim::tabulate_dot", _dot_backward, setup_context=_save)
