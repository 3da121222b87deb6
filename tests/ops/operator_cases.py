"""Inputs of the operators."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """Arguments of the fused operator."""

    x: Tensor
    s: Tensor
    b: Tensor
    w: Tensor
    ptr: Tensor
    b_index: Tensor
    c1: int
    activation: int
    threshold: float

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What can be differentiated by."""
        return self.x, self.s, self.b, self.w

    def numbers(self) -> tuple[Tensor | int | float, ...]:
        """The other arguments."""
        return self[4:]


def pointers(counts: list[int] | Tensor) -> Tensor:
    """Row pointers of segments of the given sizes."""
    counts = torch.as_tensor(counts, dtype=torch.int64)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def fused_case(
    segments: int,
    rows: int,
    columns: int,
    c1: int,
    activation: int,
    *,
    mean: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Random arguments: segments of uneven size, empty ones among them, and a threshold that many numbers pass."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 2 * mean + 1, (segments,), generator=g) if rows else torch.zeros(segments)
    ptr = pointers(counts)
    items = int(ptr[-1])

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype).requires_grad_()

    index = torch.randint(0, max(rows, 1), (items,), generator=g)
    x, s, b, w = random(items, columns), random(segments, columns), random(rows, columns), random(items)
    return Case(x, s, b, w, ptr, index, c1, activation, 0.7)
