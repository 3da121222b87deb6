"""The environment of edges in one pass: distance, switch, and scaled rows, with first and second derivatives.

``w(r) [1/(r+p), d/(r+p)²]``, less the mean and times the scale of the centre's type. E edges of N centres, T types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import is_any_order, native
from dpsim.ops.needs import needed, remember

POLYNOMIAL, EXPONENTIAL = 0, 1
"""Codes of the switches that the operator knows."""


class Fade(NamedTuple):
    """How edges fade out with the distance."""

    switch: Callable[[Tensor, float, float], Tensor]
    """Switch of distances (Å) that begins and ends at the following two."""
    form: int
    """Code under which the operator knows it."""
    start: float
    end: float
    protection: float = 0.0
    """Å, added to distances before division."""


def environment(
    d: Tensor, mean: Tensor, scale: Tensor, types: Tensor, ptr: Tensor, fade: Fade
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(E, columns)``, switch ``(E,)`` and distance ``(E,)`` of edges sorted by centre.

    Differentiable twice with respect to `d`, more often within `dpsim.ops.any_order`.

    Parameters
    ----------
    d
        ``(E, 3)`` displacements, Å.
    mean, scale
        ``(T, columns)``, not differentiated by; 4 columns, or 1 for the radial one alone.
    types, ptr
        ``(N,)`` int64 types of the centres, and ``(N+1,)`` row pointers of their edges.
    """
    if native(d) and not is_any_order():
        return torch.ops.dpsim.environment(d, mean, scale, types, ptr, *fade[1:])
    return reference.environment(d, mean, scale, types, ptr, *fade)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:5])
    ctx.fade = inputs[5:]


def _backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(one is None for one in cotangents):
        return (None,) * 9
    return (torch.ops.dpsim.environment_backward(*cotangents, *ctx.saved_tensors, *ctx.fade), *[None] * 8)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    remember(ctx, inputs)
    ctx.save_for_backward(*inputs[:8])
    ctx.fade = inputs[8:]


def _double_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    positions = needed(ctx, 3)
    *by_cotangent, dd = torch.ops.dpsim.environment_double_backward(u, *ctx.saved_tensors, *ctx.fade, positions)
    given = [d if g is not None else None for g, d in zip(ctx.saved_tensors[:3], by_cotangent, strict=True)]
    return (*given, dd if positions else None, *[None] * 8)


def _fake(d: Tensor, mean: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    edges = d.shape[0]
    return d.new_empty((edges, mean.shape[1])), d.new_empty((edges,)), d.new_empty((edges,))


def _fake_double_backward(u: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    d, mean, positions = arguments[3], arguments[4], arguments[-1]
    n = [0 if one is None else d.shape[0] for one in arguments[:3]]
    by_cotangent = (d.new_empty((n[0], mean.shape[1])), d.new_empty((n[1],)), d.new_empty((n[2],)))
    return (*by_cotangent, d.new_empty((d.shape[0] if positions else 0, 3)))


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::environment", _fake)
    fake("dpsim::environment_backward", lambda *arguments: arguments[3].new_empty((arguments[3].shape[0], 3)))
    fake("dpsim::environment_double_backward", _fake_double_backward)
    autograd("dpsim::environment", _backward, setup_context=_save)
    autograd("dpsim::environment_backward", _double_backward, setup_context=_save_second)
