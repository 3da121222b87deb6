"""Sums over edges of outer products, without the (E, K, d) intermediate.

The form ``F(t, h, g) = Σ_e Σ_kd t[c(e), k, d] h[e, k] g[e, d]`` is linear in each argument; the three operators
are its partial gradients, so each one's derivatives are the other two, to any order.
E edges sorted by centre with row pointers ``ptr (N+1)``, N centres, d columns; K = 3 for vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native
from dpsim.ops.needs import needed, remember


def edge_outer_sum(h: Tensor, g: Tensor, ptr: Tensor, like: Tensor | None = None) -> Tensor:
    """Gradient of F with respect to t: ``Σ_e h_e ⊗ g_e`` of each centre.

    Parameters
    ----------
    h
        ``(E, K)``.
    g
        ``(E, d)``.
    ptr
        ``(N+1,)`` int64.
    like
        Any tensor with N rows; give it in a graph to be exported (`dpsim.ops.segment_sum` says why).

    Returns
    -------
    Tensor
        ``(N, K, d)``.
    """
    return _sum(h, g, ptr, ptr.shape[0] - 1 if like is None else like.shape[0])


def edge_outer_dot(t: Tensor, g: Tensor, ptr: Tensor) -> Tensor:
    """Gradient of F with respect to h: ``(N, K, d)`` and ``(E, d)`` to ``(E, K)``, summed over columns."""
    return torch.ops.dpsim.edge_outer_dot(t, g, ptr) if native(g) else reference.edge_outer_dot(t, g, ptr)


def edge_outer_mix(t: Tensor, h: Tensor, ptr: Tensor) -> Tensor:
    """Gradient of F with respect to g: ``(N, K, d)`` and ``(E, K)`` to ``(E, d)``, summed over rows."""
    return torch.ops.dpsim.edge_outer_mix(t, h, ptr) if native(h) else reference.edge_outer_mix(t, h, ptr)


def _sum(h: Tensor, g: Tensor, ptr: Tensor, centers: int) -> Tensor:
    if native(g):
        return torch.ops.dpsim.edge_outer_sum(h, g, ptr, centers)
    return reference.edge_outer_sum(h, g, ptr, centers)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    remember(ctx, inputs)
    ctx.save_for_backward(*inputs[:3])


def _sum_backward(ctx: Any, t: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    h, g, ptr = ctx.saved_tensors
    dh = edge_outer_dot(t, g, ptr) if needed(ctx, 0) else None
    return dh, edge_outer_mix(t, h, ptr) if needed(ctx, 1) else None, None, None


def _dot_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    t, g, ptr = ctx.saved_tensors
    dt = _sum(h, g, ptr, t.shape[0]) if needed(ctx, 0) else None
    return dt, edge_outer_mix(t, h, ptr) if needed(ctx, 1) else None, None


def _mix_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    t, h, ptr = ctx.saved_tensors
    dt = _sum(h, g, ptr, t.shape[0]) if needed(ctx, 0) else None
    return dt, edge_outer_dot(t, g, ptr) if needed(ctx, 1) else None, None


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::edge_outer_sum", lambda h, g, ptr, centers: g.new_empty((centers, h.shape[1], g.shape[1])))
    fake("dpsim::edge_outer_dot", lambda t, g, ptr: g.new_empty((g.shape[0], t.shape[1])))
    fake("dpsim::edge_outer_mix", lambda t, h, ptr: t.new_empty((h.shape[0], t.shape[2])))
    autograd("dpsim::edge_outer_sum", _sum_backward, setup_context=_save)
    autograd("dpsim::edge_outer_dot", _dot_backward, setup_context=_save)
    autograd("dpsim::edge_outer_mix", _mix_backward, setup_context=_save)
