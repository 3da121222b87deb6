"""The sums of `dpsim.ops.outer` where several edges share a row of g: features of neighbours, never gathered.

``F(t, h, g) = Σ_e Σ_kd t[c(e), k, d] h[e, k] g[j(e), d]`` with ``j(e)`` an index (E,); the three operators are its
partial gradients, so each one's derivatives are the other two, to any order. R rows of g, N centres, d columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native


def neighbor_outer_sum(h: Tensor, g: Tensor, ptr: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Gradient of F with respect to t: ``Σ_e h_e ⊗ g_j(e)`` of each centre.

    Parameters
    ----------
    h
        ``(E, 3)``.
    g
        ``(R, d)``.
    ptr
        ``(N+1,)`` int64.
    index
        ``(E,)`` int64, row of `g` of each edge.
    like
        Any tensor with N rows (`dpsim.ops.segment_sum` says why).

    Returns
    -------
    Tensor
        ``(N, 3, d)``.
    """
    return _sum(h, g, ptr, index, like.shape[0])


def _sum(h: Tensor, g: Tensor, ptr: Tensor, index: Tensor, centers: int) -> Tensor:
    if native(g):
        return torch.ops.dpsim.neighbor_outer_sum(h, g, ptr, index, centers)
    return reference.edge_outer_sum(h, g.index_select(0, index), ptr, centers)


def _dot(t: Tensor, g: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
    return torch.ops.dpsim.neighbor_outer_dot(t, g, ptr, index)


def _mix(t: Tensor, h: Tensor, ptr: Tensor, index: Tensor, rows: int) -> Tensor:
    return torch.ops.dpsim.neighbor_outer_mix(t, h, ptr, index, rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _sum_backward(ctx: Any, t: Tensor) -> tuple[Tensor | None, ...]:
    h, g, ptr, index = ctx.saved_tensors
    dh = _dot(t, g, ptr, index) if ctx.needs_input_grad[0] else None
    return dh, _mix(t, h, ptr, index, g.shape[0]) if ctx.needs_input_grad[1] else None, None, None, None


def _dot_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    t, g, ptr, index = ctx.saved_tensors
    dt = _sum(h, g, ptr, index, t.shape[0]) if ctx.needs_input_grad[0] else None
    return dt, _mix(t, h, ptr, index, g.shape[0]) if ctx.needs_input_grad[1] else None, None, None


def _mix_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    t, h, ptr, index = ctx.saved_tensors
    dt = _sum(h, g, ptr, index, t.shape[0]) if ctx.needs_input_grad[0] else None
    return dt, _dot(t, g, ptr, index) if ctx.needs_input_grad[1] else None, None, None, None


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::neighbor_outer_sum", lambda h, g, ptr, index, centers: g.new_empty((centers, 3, g.shape[1])))
    fake("dpsim::neighbor_outer_dot", lambda t, g, ptr, index: g.new_empty((index.shape[0], 3)))
    fake("dpsim::neighbor_outer_mix", lambda t, h, ptr, index, rows: t.new_empty((rows, t.shape[2])))
    autograd("dpsim::neighbor_outer_sum", _sum_backward, setup_context=_save)
    autograd("dpsim::neighbor_outer_dot", _dot_backward, setup_context=_save)
    autograd("dpsim::neighbor_outer_mix", _mix_backward, setup_context=_save)
