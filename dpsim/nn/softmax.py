"""Softmax over the items of segments."""

from __future__ import annotations

import torch
from torch import Tensor

from dpsim import ops


def segment_softmax(
    z: Tensor, ptr: Tensor, like: Tensor, extra: Tensor | None = None, extra_logit: float = -20.0
) -> Tensor:
    """Softmax of `z` over each segment, with `extra` further terms in the denominator.

    ``exp(z_m) / (Σ exp(z) + extra exp(extra_logit))`` with the sum over the items of the segment of m. The extra terms
    stand for places of a neighbour list that no item fills (spec dpa1.md §3.1). Items at ``-inf`` count nothing
    and get 0, also where all items of a segment are. Differentiable to any order.

    Parameters
    ----------
    z
        ``(M, K)``, rows sorted by segment.
    ptr
        ``(S+1,)`` int64, row pointers of the segments.
    like
        Any tensor with S rows.
    extra
        ``(S, K)`` or ``(S, 1)``, how many terms are added, at least 0; of the dtype of `z`.
    extra_logit
        Exponent of each of them.

    Returns
    -------
    Tensor
        ``(M, K)``.
    """
    # The result does not depend on the shift, so no gradient passes through it.
    shift = ops.segment_max(z, ptr, like).clamp(min=torch.finfo(z.dtype).min)
    if extra is not None:
        shift = torch.where(extra > 0, shift.clamp(min=extra_logit), shift)
    weight = torch.exp(z - ops.segment_expand(shift, ptr, z))
    total = ops.segment_sum(weight, ptr, like)
    if extra is not None:
        # Where there are extra terms the shift is no less than their exponent.
        total = total + extra * torch.exp((extra_logit - shift).clamp(max=0.0))
    total = total + (total == 0)
    return weight / ops.segment_expand(total, ptr, z)
