"""The fused operator with the linear map before it: messages of DPA-3 without an intermediate of the items' size.

`gather_act_reduce` of ``x = a @ weight``, where x is made chunk by chunk and again in each derivative, and what stays
per item is scaled and added to what was there. So a layer keeps its inputs and nothing else for its derivatives.

M items, S segments, B gathered rows, K columns of the items' features, C of the map, of which the first c1 are summed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.needs import needed, parameter, remember


class Shared(NamedTuple):
    """Arguments that the operator and its derivatives have in common, in the order of the schema."""

    a: Tensor
    weight: Tensor
    s: Tensor
    b: Tensor
    w: Tensor
    scale: Tensor | None
    ptr: Tensor
    b_index: Tensor
    c1: int
    activation: int
    threshold: float


_TENSORS = 8
"""How many of these are tensors."""


def message(
    a: Tensor,
    weight: Tensor,
    s: Tensor,
    b: Tensor,
    w: Tensor,
    ptr: Tensor,
    b_index: Tensor,
    c1: int,
    activation: int,
    threshold: float = 0.0,
    base: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Activate ``a[m] @ weight + s[segment(m)] + b[b_index[m]]`` and sum the first `c1` columns by segment.

    Differentiable twice with respect to all floating-point arguments, more often within `dpsim.ops.any_order`.
    Results do not depend on the number of threads.

    Parameters
    ----------
    a, weight
        ``(M, K)`` and ``(K, C)``, float32 or float64.
    s, b
        ``(S, C)`` and ``(B, C)``.
    w
        ``(M,)``, weight of each item in the sum.
    ptr
        ``(S+1,)`` int64, ascending from 0 to M.
    b_index
        ``(M,)`` int64, rows of `b`.
    c1
        Number of summed columns, ``0 <= c1 <= C``.
    activation
        0 silu, 1 silut, 2 tanh (`dpsim.ops.ACTIVATIONS`).
    threshold
        Of silut, which is silu below it.
    base, scale
        ``(M, C - c1)`` and ``(C - c1,)``; None stands for zeros and ones.

    Returns
    -------
    tuple of Tensor
        ``reduced (S, c1) = Σ_m w[m] φ(pre[m, :c1])`` and ``item (M, C - c1) = base + scale φ(pre[m, c1:])``.
    """
    if native(a) and not is_any_order():
        scale = None if scale is None else parameter(scale)
        shared = (a, parameter(weight), s, b, w, scale, ptr, b_index, c1, activation, threshold)
        return torch.ops.dpsim.message(base, *shared)
    reduced, item = reference.gather_act_reduce(a @ weight, s, b, w, ptr, b_index, c1, activation, threshold)
    item = item if scale is None else scale * item
    return reduced, item if base is None else base + item


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[1 : 1 + _TENSORS])
    ctx.numbers = inputs[1 + _TENSORS :]


def _backward(ctx: Any, grad_reduced: Tensor | None, grad_item: Tensor | None) -> tuple[Tensor | None, ...]:
    parameters = needed(ctx, 2, 6)
    found = torch.ops.dpsim.message_backward(grad_reduced, grad_item, *ctx.saved_tensors, *ctx.numbers, parameters)
    base = grad_item if ctx.needs_input_grad[0] else None
    return base, *_asked_for(found, ctx.saved_tensors[5], parameters), None, None, None, None, None


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[: 2 + _TENSORS])
    ctx.numbers, ctx.parameters = inputs[2 + _TENSORS : -1], inputs[-1]


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if not ctx.parameters:  # these two results were empty
        dda, _, dds, ddb, ddw, _ = cotangents
        cotangents = (dda, None, dds, ddb, ddw, None)
    parameters = needed(ctx, 3, 7)
    grads = torch.ops.dpsim.message_double_backward(*cotangents, *saved, *ctx.numbers, parameters)
    outer = [grad if given is not None else None for given, grad in zip(saved[:2], grads[:2], strict=True)]
    return (*outer, *_asked_for(grads[2:], saved[7], parameters), None, None, None, None, None, None)


def _asked_for(grads: tuple[Tensor, ...], scale: Tensor | None, parameters: bool) -> tuple[Tensor | None, ...]:
    """Gradients of a, weight, s, b, w and scale, those of parameters only if they were made."""
    da, dweight, ds, db, dw, dscale = grads
    return da, dweight if parameters else None, ds, db, dw, dscale if parameters and scale is not None else None


def _fake_gradients(a: Shared, parameters: bool) -> tuple[Tensor, ...]:
    # Contiguous whatever the inputs are, as the kernels return them.
    absent = a.a.new_empty((0,))
    dweight, dscale = a.weight.new_empty(a.weight.shape), a.a.new_empty((a.weight.shape[1] - a.c1,))
    da, ds, db, dw = (t.new_empty(t.shape) for t in (a.a, a.s, a.b, a.w))
    return da, dweight if parameters else absent, ds, db, dw, dscale if parameters else absent.clone()


def _fake_outputs(a: Shared) -> tuple[Tensor, Tensor]:
    return a.a.new_empty((a.s.shape[0], a.c1)), a.a.new_empty((a.a.shape[0], a.weight.shape[1] - a.c1))


def _fake(base: Tensor | None, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake_outputs(Shared(*arguments))


def _fake_backward(grad_reduced: Tensor | None, grad_item: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(Shared(*arguments[:-1]), arguments[-1])


def _fake_double_backward(*arguments: Any) -> tuple[Tensor, ...]:
    shared = Shared(*arguments[8:-1])
    reduced, item = _fake_outputs(shared)
    # The kernel returns no rows for the gradient of an absent grad_item.
    item = item if arguments[7] is not None else item[:0]
    return (reduced, item, *_fake_gradients(shared, arguments[-1]))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::message", _fake)
    fake("dpsim::message_backward", _fake_backward)
    fake("dpsim::message_double_backward", _fake_double_backward)
    autograd("dpsim::message", _backward, setup_context=_save)
    autograd("dpsim::message_backward", _double_backward, setup_context=_save_second)
