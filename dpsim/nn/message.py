"""The message sum that edges and angles share: gather, add, activate, and sum by segment."""

from __future__ import annotations

from torch import Tensor

from dpsim import ops
from dpsim.nn.activation import Activation

KEPT_WIDTH = 32
"""In training, products of more columns than this are kept for the derivatives, which takes less time than to make
them four times again."""


def message_sum(
    x: Tensor,
    by_segment: Tensor,
    by_index: Tensor,
    weight: Tensor,
    ptr: Tensor,
    index: Tensor,
    n_reduced: int,
    phi: Activation,
) -> tuple[Tensor, Tensor]:
    """Activate ``x + by_segment[segment] + by_index[index]``; sum some columns by segment, keep the others.

    Parameters
    ----------
    x
        (M, C), rows sorted by segment.
    by_segment, by_index
        (S, C) and (K, C), gathered by the segment and by `index` (M,).
    weight
        (M,) factor of each row in the sum.
    ptr
        (S + 1,) CSR pointers of the segments.
    n_reduced
        Number of leading columns that are summed.

    Returns
    -------
    reduced : (S, n_reduced)
    item : (M, C − n_reduced)
    """
    if phi.code is not None:
        return ops.gather_act_reduce(x, by_segment, by_index, weight, ptr, index, n_reduced, phi.code, phi.threshold)
    active = phi(x + ops.segment_expand(by_segment, ptr, index) + ops.gather_rows(by_index, index))
    return ops.segment_sum(active[:, :n_reduced] * weight.unsqueeze(1), ptr, by_segment), active[:, n_reduced:]


def linear_message_sum(
    x: Tensor,
    weight: Tensor,
    by_segment: Tensor,
    by_index: Tensor,
    factor: Tensor,
    ptr: Tensor,
    index: Tensor,
    n_reduced: int,
    phi: Activation,
    base: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same of ``x @ weight``, whose size no tensor has; what is kept is ``base + scale φ(...)``.

    Parameters
    ----------
    x, weight
        (M, K) and (K, C).
    factor
        (M,) factor of each row in the sum.
    base, scale
        (M, C − n_reduced) and (C − n_reduced,); None for zeros and ones. For the others see `message_sum`.
    """
    if phi.code is not None and not (weight.requires_grad and weight.shape[0] > KEPT_WIDTH):
        numbers = (n_reduced, phi.code, phi.threshold)
        return ops.message(x, weight, by_segment, by_index, factor, ptr, index, *numbers, base, scale)
    reduced, item = message_sum(x @ weight, by_segment, by_index, factor, ptr, index, n_reduced, phi)
    item = item if scale is None else scale * item
    return reduced, item if base is None else base + item
