"""Sums over neighbours of an outer product with what a network makes of the distance, without storing the latter.

``Σ_e r_e ⊗ G(x_e)`` of each segment, where G is a residual network of one number and a kind: its first layer activates
``x w + first[kind]``. The native version takes the items in blocks that stay in the processor's cache and computes the
network anew for each derivative: nothing as wide as G is ever stored for all items.

M items, S segments with row pointers ``ptr (S+1)`` int64, K columns of r, C columns of G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.needs import needed, parameter, remember


class Network(NamedTuple):
    """What of the network is not differentiated by."""

    widths: Sequence[int]
    """Of the layers; at least one. A layer that is as wide as its input, or twice as wide, adds it to its output."""
    skip: bool
    """The first layer adds x to its output."""
    activation: int
    """See `dpsim.ops.ACTIVATIONS`."""
    threshold: float = 0.0
    """Of silut."""


def embedding_sum(
    x: Tensor,
    r: Tensor,
    kind: Tensor | None,
    first: Tensor,
    weights: Tensor,
    ptr: Tensor,
    network: Network,
    like: Tensor | None = None,
) -> Tensor:
    """Sum over the items of each segment of ``r ⊗ G``: ``(S, K, C)``.

    Differentiable twice, more often within `dpsim.ops.any_order`. Results do not depend on the number of threads.

    Parameters
    ----------
    x, r
        ``(M,)`` and ``(M, K)``, float32 or float64.
    kind
        ``(M,)`` int64, rows of `first`; None if that has one.
    first
        ``(kinds, widths[0])``.
    weights
        All others in a row: those of x in the first layer, then ``(in, out)`` and a bias for each further layer.
    like
        Any tensor with S rows; give it in a graph to be exported (`dpsim.ops.segment_sum` says why).
    """
    segments = ptr.shape[0] - 1 if like is None else like.shape[0]
    if native(x) and not is_any_order():
        arguments = (x, r, kind, parameter(first), parameter(weights), ptr)
        return torch.ops.dpsim.embedding_sum(*arguments, segments, *_numbers(network))
    return reference.embedding_sum(x, r, kind, first, weights, ptr, segments, *network)


def _numbers(network: Network) -> tuple[Any, ...]:
    return (list(network.widths), *network[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    remember(ctx, inputs)
    ctx.save_for_backward(*inputs[:6])
    ctx.network = inputs[7:]


def _backward(ctx: Any, t: Tensor) -> tuple[Any, ...]:
    items, parameters = needed(ctx, 0, 1), needed(ctx, 3, 4)
    dx, dr, dfirst, dweights = torch.ops.dpsim.embedding_sum_backward(
        t, *ctx.saved_tensors, *ctx.network, items, parameters
    )
    by_item, by_parameter = (dx, dr) if items else (None, None), (dfirst, dweights) if parameters else (None, None)
    return (*by_item, None, *by_parameter, *[None] * 6)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:7])
    ctx.network = inputs[7:-2]


def _double_backward(ctx: Any, ux: Tensor | None, ur: Tensor | None, *by_parameters: Tensor | None) -> tuple[Any, ...]:
    if any(u is not None for u in by_parameters):
        cotangents = (ux, ur, *by_parameters)
        return (*reference.embedding_sum_double_backward(cotangents, *ctx.saved_tensors, *ctx.network), *[None] * 7)
    if ux is None and ur is None:
        return (None,) * 13
    items, parameters = needed(ctx, 1, 2), needed(ctx, 4, 5)
    dt, dx, dr, dfirst, dweights = torch.ops.dpsim.embedding_sum_double_backward(
        ux, ur, *ctx.saved_tensors, *ctx.network, items, parameters
    )
    by_item, by_parameter = (dx, dr) if items else (None, None), (dfirst, dweights) if parameters else (None, None)
    return (dt, *by_item, None, *by_parameter, *[None] * 7)


def _fake_gradients(tensors: Sequence[Tensor], items: bool, parameters: bool) -> tuple[Tensor, ...]:
    x, r, first, weights = tensors[0], tensors[1], tensors[3], tensors[4]
    n = x.shape[0] if items else 0
    return (
        x.new_empty((n,)),
        x.new_empty((n, r.shape[1])),
        x.new_empty(first.shape if parameters else (0, first.shape[1])),
        x.new_empty(weights.shape if parameters else (0,)),
    )


def _fake(*arguments: Any) -> Tensor:
    x, r, segments, widths = arguments[0], arguments[1], arguments[6], arguments[7]
    return x.new_empty((segments, r.shape[1], widths[-1]))


def _fake_backward(t: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(arguments[:6], arguments[-2], arguments[-1])


def _fake_double_backward(ux: Tensor | None, ur: Tensor | None, t: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return (t.new_empty(t.shape), *_fake_gradients(arguments[:6], arguments[-2], arguments[-1]))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::embedding_sum", _fake)
    fake("dpsim::embedding_sum_backward", _fake_backward)
    fake("dpsim::embedding_sum_double_backward", _fake_double_backward)
    autograd("dpsim::embedding_sum", _backward, setup_context=_save)
    autograd("dpsim::embedding_sum_backward", _double_backward, setup_context=_save_second)
