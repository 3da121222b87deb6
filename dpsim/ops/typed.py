"""Products of rows with the matrix of their type: networks of each type see their own rows alone.

The form ``F(x, w, g) = Σ_n x_n · w[t_n] g_n`` is linear in each argument; the operators are its partial gradients, so
each one's derivatives are the others, to any order. N rows, T types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native
from dpsim.ops.needs import needed, parameter, remember


def typed_matmul(x: Tensor, weights: Sequence[Tensor], types: Tensor, *, transpose: bool = False) -> Tensor:
    """Rows ``(N, in)`` times the matrix of their type: ``(N, out)``.

    Parameters
    ----------
    weights
        T matrices ``(in, out)``.
    types
        ``(N,)`` int64.
    transpose
        Rows ``(N, out)`` times the transposed matrices: ``(N, in)``.
    """
    if native(x):
        return torch.ops.dpsim.typed_matmul(x, [parameter(one) for one in weights], types, transpose)
    return reference.typed_matmul(x, weights, types, transpose)


def typed_outer(x: Tensor, g: Tensor, types: Tensor, n_types: int) -> Tensor:
    """Sum ``(T, in, out)`` over the rows of each type of ``x (N, in) ⊗ g (N, out)``."""
    if native(x):
        return torch.ops.dpsim.typed_outer(x, g, types, n_types)
    return reference.typed_outer(x, g, types, n_types)


def _save_matmul(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, types, ctx.transpose = inputs
    remember(ctx, inputs)
    ctx.save_for_backward(x, types, *weights)


def _matmul_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, types, *weights = ctx.saved_tensors
    dx = typed_matmul(g, weights, types, transpose=not ctx.transpose) if needed(ctx, 0) else None
    if not needed(ctx, 1):
        return dx, [None] * len(weights), None, None
    x, g = (g, x) if ctx.transpose else (x, g)
    return dx, list(typed_outer(x, g, types, len(weights)).unbind()), None, None


def _save_outer(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    remember(ctx, inputs)
    ctx.save_for_backward(*inputs[:3])


def _outer_backward(ctx: Any, by_type: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, g, types = ctx.saved_tensors
    weights = by_type.unbind()
    dx = typed_matmul(g, weights, types, transpose=True) if needed(ctx, 0) else None
    return dx, typed_matmul(x, weights, types) if needed(ctx, 1) else None, None, None


def _fake_matmul(x: Tensor, weights: Sequence[Tensor], types: Tensor, transpose: bool) -> Tensor:
    return x.new_empty((x.shape[0], weights[0].shape[0 if transpose else 1]))


def _fake_outer(x: Tensor, g: Tensor, types: Tensor, n_types: int) -> Tensor:
    return x.new_empty((n_types, x.shape[1], g.shape[1]))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::typed_matmul", _fake_matmul)
    fake("dpsim::typed_outer", _fake_outer)
    autograd("dpsim::typed_matmul", _matmul_backward, setup_context=_save_matmul)
    autograd("dpsim::typed_outer", _outer_backward, setup_context=_save_outer)
