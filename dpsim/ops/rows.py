"""Sums over segments and gathers of rows: two pairs of operators, each the other's adjoint.

Deterministic for any number of threads, without atomic additions, and differentiable to any order. M items,
S segments with row pointers ``ptr (S+1)`` int64, R rows. `like` is any tensor with as many rows as the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native


def segment_sum(x: Tensor, ptr: Tensor, like: Tensor | None = None) -> Tensor:
    """Sum of the rows of each segment, in order: ``(M, ...)`` to ``(S, ...)``.

    In a graph to be exported give `like`: the length of `ptr` less one is no size that the exporter can follow
    down to 0 and 1.
    """
    return _segment_sum(x, ptr, ptr.shape[0] - 1 if like is None else like.shape[0])


def segment_expand(y: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
    """To each item the row of its segment: ``(S, ...)`` to ``(M, ...)``."""
    return _segment_expand(y, ptr, like.shape[0])


def segment_max(x: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
    """Largest number of each column in each segment, 0 in segments without items: ``(M, ...)`` to ``(S, ...)``.

    No gradient passes: it serves as a shift that cancels, as in a softmax.
    """
    x, segments = x.detach(), like.shape[0]
    return torch.ops.dpsim.segment_max(x, ptr, segments) if native(x) else reference.segment_max(x, ptr, segments)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` by `index` (M,) int64: ``(R, ...)`` to ``(M, ...)``."""
    return torch.ops.dpsim.gather_rows(x, index) if native(x) else x.index_select(0, index)


def scatter_rows(g: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Sum of the rows of `g` with equal `index`: ``(M, ...)`` to ``(R, ...)``."""
    return _scatter_rows(g, index, like.shape[0])


def _segment_sum(x: Tensor, ptr: Tensor, segments: int) -> Tensor:
    return torch.ops.dpsim.segment_sum(x, ptr, segments) if native(x) else reference.segment_sum(x, ptr, segments)


def _segment_expand(y: Tensor, ptr: Tensor, items: int) -> Tensor:
    if native(y):
        return torch.ops.dpsim.segment_expand(y, ptr, items)
    return reference.segment_expand(y, ptr, items)


def _scatter_rows(g: Tensor, index: Tensor, rows: int) -> Tensor:
    if native(g):
        return torch.ops.dpsim.scatter_rows(g, index, rows)
    return reference.scatter_rows(g, index, rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the index and the number of rows that the adjoint returns to."""
    ctx.save_for_backward(inputs[1])
    ctx.rows = inputs[0].shape[0]


def _fake_rows(values: Tensor, index: Tensor, rows: int) -> Tensor:
    return values.new_empty((rows, *values.shape[1:]))


def _segment_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _segment_expand(grad, ctx.saved_tensors[0], ctx.rows), None, None


def _segment_expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _segment_sum(grad, ctx.saved_tensors[0], ctx.rows), None, None


def _gather_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _scatter_rows(grad, ctx.saved_tensors[0], ctx.rows), None


def _scatter_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return gather_rows(grad, ctx.saved_tensors[0]), None, None


def _no_backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
    return None, None, None


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::segment_sum", _fake_rows)
    fake("dpsim::segment_expand", _fake_rows)
    fake("dpsim::segment_max", _fake_rows)
    fake("dpsim::gather_rows", lambda x, index: _fake_rows(x, index, index.shape[0]))
    fake("dpsim::scatter_rows", _fake_rows)
    autograd("dpsim::segment_sum", _segment_sum_backward, setup_context=_save)
    autograd("dpsim::segment_expand", _segment_expand_backward, setup_context=_save)
    autograd("dpsim::segment_max", _no_backward)
    autograd("dpsim::gather_rows", _gather_rows_backward, setup_context=_save)
    autograd("dpsim::scatter_rows", _scatter_rows_backward, setup_context=_save)
