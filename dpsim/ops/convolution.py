"""Outer sums over the edges of a centre, of which some rows are contracted with weights at once.

``m = Σ_e h_e ⊗ g_e`` is a matrix for each centre. Its first rows are given back, the others only as their sum with a
weight for each row and column: the whole of it is never stored for all centres. E edges of N centres with row pointers
``ptr (N+1)`` int64, L rows that are kept, K that are summed, C columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.needs import needed, parameter, remember


def edge_convolution(h: Tensor, g: Tensor, weight: Tensor, ptr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Moments ``(N, L, C)`` and weighted sums ``(N, C)``.

    Differentiable twice, more often within `dpsim.ops.any_order`. Results do not depend on the number of threads.

    Parameters
    ----------
    h, g
        ``(E, L + K)`` and ``(E, C)``.
    weight
        ``(K, C)``.
    like
        Any tensor with N rows.
    """
    if native(g) and not is_any_order():
        return torch.ops.dpsim.edge_convolution(h, g, parameter(weight), ptr, like.shape[0])
    return reference.edge_convolution(h, g, weight, ptr, like.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, t_moments: Tensor, t_sums: Tensor) -> tuple[Tensor | None, ...]:
    edges, weights = needed(ctx, 0, 1), needed(ctx, 2)
    dh, dg, dweight = torch.ops.dpsim.edge_convolution_backward(
        t_moments, t_sums, *ctx.saved_tensors, edges, weights
    )  # fmt: skip
    return (*((dh, dg) if edges else (None, None)), dweight if weights else None, None, None)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])


def _double_backward(ctx: Any, uh: Tensor | None, ug: Tensor | None, u: Tensor | None) -> tuple[Tensor | None, ...]:
    _, _, h, g, weight, _ = ctx.saved_tensors
    if u is not None and u.shape == weight.shape:
        found = reference.edge_convolution_double_backward((uh, ug, u), *ctx.saved_tensors)
        return (*found, None, None, None)
    if uh is None and ug is None:
        return (None,) * 8
    uh, ug = torch.zeros_like(h) if uh is None else uh, torch.zeros_like(g) if ug is None else ug
    edges, weights = needed(ctx, 2, 3), needed(ctx, 4)
    d_moments, d_sums, dh, dg, dweight = torch.ops.dpsim.edge_convolution_double_backward(
        uh, ug, *ctx.saved_tensors, edges, weights
    )
    by_edge = (dh, dg) if edges else (None, None)
    return (d_moments, d_sums, *by_edge, dweight if weights else None, None, None, None)


def _fake(h: Tensor, g: Tensor, weight: Tensor, ptr: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    kept = h.shape[1] - weight.shape[0]
    return g.new_empty((segments, kept, g.shape[1])), g.new_empty((segments, g.shape[1]))


def _fake_backward(t_moments: Tensor, t_sums: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    h, g, weight, _, edges, weights = arguments
    n = g.shape[0] if edges else 0
    by_edge = g.new_empty((n, h.shape[1])), g.new_empty((n, g.shape[1]))
    return (*by_edge, g.new_empty((weight.shape[0] if weights else 0, g.shape[1])))


def _fake_double_backward(uh: Tensor, ug: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    t_moments, t_sums = arguments[:2]
    return (t_moments.new_empty(t_moments.shape), t_sums.new_empty(t_sums.shape), *_fake_backward(*arguments))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::edge_convolution", _fake)
    fake("dpsim::edge_convolution_backward", _fake_backward)
    fake("dpsim::edge_convolution_double_backward", _fake_double_backward)
    autograd("dpsim::edge_convolution", _backward, setup_context=_save)
    autograd("dpsim::edge_convolution_backward", _double_backward, setup_context=_save_second)
