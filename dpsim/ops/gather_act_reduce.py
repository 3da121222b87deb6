"""Gather, add, activate and sum by segment in one pass, with first and second derivatives.

The edge and angle updates of DPA-3 are of this form (spec: split evaluation): per-item, per-segment and
gathered terms of a linear map are added, activated, and summed with a weight over the items of a segment,
while the remaining columns stay per item. Nothing of the item's size exists besides input and output.

M items, S segments, B gathered rows, C columns of which the first c1 are summed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.reference import SILU, SILUT, TANH

ACTIVATIONS = {"silu": SILU, "silut": SILUT, "tanh": TANH}
"""Codes of the activation functions that the operator knows."""


class Shared(NamedTuple):
    """Arguments that the operator and its derivatives have in common, in the order of the schema."""

    x: Tensor
    s: Tensor
    b: Tensor
    w: Tensor
    ptr: Tensor
    b_index: Tensor
    c1: int
    activation: int
    threshold: float


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
    """Activate ``x[m] + s[segment(m)] + b[b_index[m]]`` and sum the first `c1` columns by segment.

    Differentiable twice with respect to `x`, `s`, `b` and `w`, more often within `dpsim.ops.any_order`. Results do not
    depend on the number of threads.

    Parameters
    ----------
    x, s, b
        ``(M, C)``, ``(S, C)`` and ``(B, C)``, float32 or float64.
    w
        ``(M,)``, weight of each item in the sum.
    ptr
        ``(S+1,)`` int64, ascending from 0 to M.
    b_index
        ``(M,)`` int64, rows of `b`.
    c1
        Number of summed columns, ``0 <= c1 <= C``.
    activation
        0 silu, 1 silut, 2 tanh (`ACTIVATIONS`).
    threshold
        Of silut, which is silu below it.

    Returns
    -------
    tuple of Tensor
        ``reduced (S, c1) = Σ_m w[m] φ(pre[m, :c1])`` and ``item (M, C - c1) = φ(pre[m, c1:])``.
    """
    if native(x) and not is_any_order():
        return torch.ops.dpsim.gather_act_reduce(x, s, b, w, ptr, b_index, c1, activation, threshold)
    return reference.gather_act_reduce(x, s, b, w, ptr, b_index, c1, activation, threshold)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    tensors = inputs[:6]
    ctx.save_for_backward(*tensors)
    ctx.numbers = inputs[6:]


def _backward(ctx: Any, grad_reduced: Tensor | None, grad_item: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = torch.ops.dpsim.gather_act_reduce_backward(grad_reduced, grad_item, *ctx.saved_tensors, *ctx.numbers)
    return (*grads, None, None, None, None, None)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:8])
    ctx.numbers = inputs[8:]


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = torch.ops.dpsim.gather_act_reduce_double_backward(*cotangents, *saved, *ctx.numbers)
    outer = [grad if given is not None else None for given, grad in zip(saved[:2], grads[:2], strict=True)]
    return (*outer, *grads[2:], None, None, None, None, None)


def _fake_gradients(a: Shared) -> tuple[Tensor, ...]:
    # Contiguous whatever the inputs are, as the kernels return them.
    return tuple(t.new_empty(t.shape) for t in (a.x, a.s, a.b, a.w))


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    a = Shared(*arguments)
    items, channels = a.x.shape
    return a.x.new_empty((a.s.shape[0], a.c1)), a.x.new_empty((items, channels - a.c1))


def _fake_backward(grad_reduced: Tensor | None, grad_item: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(Shared(*arguments))


def _fake_double_backward(*arguments: Any) -> tuple[Tensor, ...]:
    a = Shared(*arguments[6:])
    reduced, item = _fake(*a)
    # The kernel returns no rows for the gradient of an absent grad_item.
    item = item if arguments[5] is not None else item[:0]
    return (reduced, item, *_fake_gradients(a))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::gather_act_reduce", _fake)
    fake("dpsim::gather_act_reduce_backward", _fake_backward)
    fake("dpsim::gather_act_reduce_double_backward", _fake_double_backward)
    autograd("dpsim::gather_act_reduce", _backward, setup_context=_save)
    autograd("dpsim::gather_act_reduce_backward", _double_backward, setup_context=_save_second)
