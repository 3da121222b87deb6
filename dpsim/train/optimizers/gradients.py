"""Gradients of the same parameters in several processes, added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dpsim.train.parallel.distributed import Workers

BUCKET_BYTES = 32 << 20
"""Gradients are sent in pieces of about this size: the next is gathered while one is on its way."""


class Gradients:
    """Adds the gradients of all processes.

    A parameter that has a gradient in one process has one in all; where none has any, it stays without, so that an
    optimizer leaves it alone.

    Parameters
    ----------
    owners
        Process that needs the sum of each parameter; None: all need all.
    """

    def __init__(
        self, workers: Workers, parameters: Sequence[nn.Parameter], owners: Sequence[int] | None = None
    ) -> None:
        self.workers, self.parameters, self.owners = workers, list(parameters), owners

    def add(self) -> None:
        """Replace the gradients by their sums; those of parameters of other owners are dropped."""
        found = self.added([p.grad for p in self.parameters])
        for p, gradient in zip(self.parameters, found, strict=True):
            p.grad = gradient

    def added(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Sums of gradients by parameter; None where no process has one, or another owns the parameter."""
        if self.workers.alone:
            return list(gradients)
        groups = list(self._buckets())
        flats = [self._flat([gradients[k] for k in group], group) for group in groups]
        if self.owners is None:
            self.workers.add(flats)
        else:
            self.workers.add_for([self.owners[group[0]] for group in groups], flats)
        found: list[Tensor | None] = [None] * len(gradients)
        for group, flat in zip(groups, flats, strict=True):
            if self.owners is None or self.owners[group[0]] == self.workers.rank:
                for k, gradient in zip(group, self._parts(flat, group), strict=True):
                    found[k] = gradient
        return found

    def _buckets(self) -> Iterator[list[int]]:
        """Numbers of parameters of one type, device and owner that are sent together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for k, p in enumerate(self.parameters):
            owner = None if self.owners is None else self.owners[k]
            groups.setdefault((p.dtype, p.device, owner), []).append(k)
        for group in groups.values():
            yield from _cut(group, [p.numel() * p.element_size() for p in self.parameters])

    def _flat(self, gradients: Sequence[Tensor | None], group: Sequence[int]) -> Tensor:
        """Gradients one behind the other, then for each whether there is one."""
        like = [self.parameters[k] for k in group]
        there = like[0].new_tensor([float(g is not None) for g in gradients])
        rows = [p.new_zeros(p.numel()) if g is None else g.flatten() for g, p in zip(gradients, like, strict=True)]
        return torch.cat([*rows, there]).detach()

    def _parts(self, flat: Tensor, group: Sequence[int]) -> Iterator[Tensor | None]:
        shapes = [self.parameters[k].shape for k in group]
        pieces = torch.split(flat[: -len(group)], [shape.numel() for shape in shapes])
        there = flat[-len(group) :].tolist()
        for piece, shape, has in zip(pieces, shapes, there, strict=True):
            yield piece.view(shape) if has else None


def _cut(group: Iterable[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Cut a group where it has `BUCKET_BYTES`."""
    bucket: list[int] = []
    full = 0
    for k in group:
        if bucket and full + sizes[k] > BUCKET_BYTES:
            yield bucket
            bucket, full = [], 0
        bucket.append(k)
        full += sizes[k]
    if bucket:
        yield bucket
