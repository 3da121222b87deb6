"""Plain PyTorch versions of the operators: what the native ones are tested against, and the way on other devices.

M items lie in S segments given by row pointers ``ptr (S+1)``: segment t holds the items ``ptr[t]`` to
``ptr[t+1] - 1``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SILU, SILUT, TANH = 0, 1, 2


def segment_ids(ptr: Tensor, items: int) -> Tensor:
    """Segment of each item, ``(M,)`` int64."""
    segments = torch.arange(ptr.shape[0] - 1, device=ptr.device)
    return torch.repeat_interleave(segments, ptr.diff(), output_size=items)


def scatter_rows(g: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum of the rows of `g` that have the same index."""
    return g.new_zeros((rows, *g.shape[1:])).index_add(0, index, g)


def segment_sum(x: Tensor, ptr: Tensor) -> Tensor:
    """Sum of the rows of each segment."""
    return scatter_rows(x, segment_ids(ptr, x.shape[0]), ptr.shape[0] - 1)


def segment_expand(y: Tensor, ptr: Tensor, items: int) -> Tensor:
    """To each item the row of its segment."""
    return y.index_select(0, segment_ids(ptr, items))


def edge_outer_sum(h: Tensor, g: Tensor, ptr: Tensor) -> Tensor:
    """Sum over the edges of each centre of ``h ⊗ g``."""
    return segment_sum(h[:, :, None] * g[:, None, :], ptr)


def edge_outer_dot(t: Tensor, g: Tensor, ptr: Tensor) -> Tensor:
    """Rows of ``t`` of each edge's centre times ``g``, summed over columns."""
    return (segment_expand(t, ptr, g.shape[0]) * g[:, None, :]).sum(-1)


def edge_outer_mix(t: Tensor, h: Tensor, ptr: Tensor) -> Tensor:
    """Rows of ``t`` of each edge's centre times ``h``, summed over the three directions."""
    return (segment_expand(t, ptr, h.shape[0]) * h[:, :, None]).sum(1)


def activate(x: Tensor, activation: int, threshold: float = 0.0) -> Tensor:
    """Activation function by its code: 0 silu, 1 silut (silu below `threshold`, tanh above), 2 tanh."""
    if activation == TANH:
        return torch.tanh(x)
    if activation == SILU:
        return torch.nn.functional.silu(x)
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    slope = sigmoid + threshold * sigmoid * (1.0 - sigmoid)
    above = torch.tanh(slope * (x - threshold)) + threshold * sigmoid
    return torch.where(x < threshold, torch.nn.functional.silu(x), above)


def gather_act_reduce(
    x: Tensor,
    s: Tensor,
    b: Tensor,
    w: Tensor,
    ptr: Tensor,
    b_index: Tensor,
    c1: int,
    activation: int,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Activate ``x + s[segment] + b[b_index]``; sum the first `c1` columns by segment, return the others."""
    pre = x + segment_expand(s, ptr, x.shape[0]) + b.index_select(0, b_index)
    value = activate(pre, activation, threshold)
    return segment_sum(w[:, None] * value[:, :c1], ptr), value[:, c1:]
