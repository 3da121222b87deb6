"""From frames to batches: neighbourhoods are made once and kept, ahead of the step that needs them.

A thread prepares the next batches while the current one is computed. What fits into the memory given is kept;
the rest is made anew each time it is drawn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpsim.errors import DataError
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, NeighborSpec, frame_graph
from dpsim.train.frames import FrameSet

LABELS = ("energy", "forces", "virial", "atomic_energy", "force_weight")
"""Fields that a loss can compare with."""
_PER_ATOM = ("forces", "atomic_energy", "force_weight")
_SHAPES: dict[str, tuple[int, ...]] = {
    "energy": (), "forces": (3,), "virial": (3, 3), "atomic_energy": (), "force_weight": (),
}  # fmt: skip
AHEAD = 2
"""Batches prepared in advance."""

_Tag = TypeVar("_Tag")


class Label(NamedTuple):
    """One field over a batch of F frames and N atoms; rows without the label are zero and weigh nothing."""

    values: Tensor
    """(F, ...) or (N, ...) float64."""
    weight: Tensor | None
    """(F,) or (N,): 1 where the label counts, else 0; None if it counts everywhere."""
    size: int
    """Number of rows that count."""


@dataclass(frozen=True)
class Batch:
    """Frames of any size and composition, ready for the model."""

    neighborhood: Neighborhood
    n_frames: int
    n_atoms: Tensor
    """(F,) float64: atoms with an energy of their own, at least 1."""
    labels: dict[str, Label]
    """By field; a missing key means that no frame has it."""
    sources: tuple[str, ...]
    """Where each frame lies, for messages."""
    seconds: float = 0.0
    """Time that making the batch took."""

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        if device.type == "cpu":
            return self
        labels = {
            name: Label(label.values.to(device), None if label.weight is None else label.weight.to(device), label.size)
            for name, label in self.labels.items()
        }
        return replace(self, neighborhood=self.neighborhood.to(device), n_atoms=self.n_atoms.to(device), labels=labels)


class _Sample(NamedTuple):
    graph: FrameGraph
    labels: dict[str, np.ndarray]
    source: str

    @property
    def n_bytes(self) -> int:
        return self.graph.n_bytes + sum(value.nbytes for value in self.labels.values())


class BatchMaker:
    """Turns frame indices into a `Batch`.

    Parameters
    ----------
    spec
        What the model needs of the neighbourhood.
    excluded
        Types without an energy of their own: they do not enter the errors.
    cache_bytes
        Memory for neighbourhoods that are kept.
    """

    def __init__(
        self, frames: FrameSet, spec: NeighborSpec, *, excluded: Sequence[int] = (), cache_bytes: float = 0.0
    ) -> None:
        self.frames, self.spec, self.excluded = frames, spec, tuple(excluded)
        self._free = cache_bytes
        self._kept: dict[int, _Sample] = {}

    def __call__(self, indices: Sequence[int]) -> Batch:
        """Make the batch of these frames."""
        start = time.perf_counter()
        samples = [self._sample(i) for i in indices]
        graphs = [sample.graph for sample in samples]
        counted = [~np.isin(graph.types, self.excluded) for graph in graphs]
        n_atoms = np.array([max(int(mask.sum()), 1) for mask in counted], dtype=np.float64)
        labels = {name: label for name in LABELS if (label := _label(name, samples, counted)) is not None}
        sources = tuple(sample.source for sample in samples)
        hood = collate(graphs)
        return Batch(hood, len(samples), torch.from_numpy(n_atoms), labels, sources, time.perf_counter() - start)

    def graph(self, i: int) -> FrameGraph:
        """Neighbourhood of frame `i`."""
        return self._sample(i).graph

    def _sample(self, i: int) -> _Sample:
        if i in self._kept:
            return self._kept[i]
        frame = self.frames[i]
        try:
            graph = frame_graph(frame.positions, frame.types, frame.cell, self.spec)
        except DataError as error:
            raise DataError(f"{frame.source}: {error}") from None
        sample = _Sample(graph, {name: frame.labels[name] for name in LABELS if name in frame.labels}, frame.source)
        if sample.n_bytes <= self._free:
            self._free -= sample.n_bytes
            self._kept[i] = sample
        return sample


def _label(name: str, samples: Sequence[_Sample], counted: Sequence[np.ndarray]) -> Label | None:
    present = [name in sample.labels for sample in samples]
    if not any(present):
        return None
    rows = [(len(mask),) if name in _PER_ATOM else () for mask in counted]
    values = [
        sample.labels[name] if has else np.zeros((*row, *_SHAPES[name]))
        for sample, has, row in zip(samples, present, rows, strict=True)
    ]
    if name in _PER_ATOM:
        weight = np.concatenate([mask & has for mask, has in zip(counted, present, strict=True)])
        joined = np.concatenate(values)
    else:
        weight, joined = np.array(present), np.stack(values)
    if not weight.any():
        return None
    tensor = torch.from_numpy(np.ascontiguousarray(joined, dtype=np.float64))
    if weight.all():
        return Label(tensor, None, len(weight))
    return Label(tensor, torch.from_numpy(weight.astype(np.float64)), int(weight.sum()))


class Prefetch(Generic[_Tag]):
    """Batches in order, made by one thread ahead of their use.

    Parameters
    ----------
    plan
        Frame indices of each batch, each with something that is handed back beside the batch.
    """

    def __init__(self, maker: BatchMaker, plan: Iterable[tuple[list[int], _Tag]]) -> None:
        self._maker = maker
        self._plan = iter(plan)
        self._waiting: deque[tuple[Future[Batch], _Tag]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dpsim-loader")

    def __enter__(self) -> Prefetch[_Tag]:
        for _ in range(AHEAD):
            self._submit()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Batch, _Tag]]:
        while self._waiting:
            future, tag = self._waiting.popleft()
            batch = future.result()
            self._submit()
            yield batch, tag

    def _submit(self) -> None:
        step = next(self._plan, None)
        if step is not None:
            self._waiting.append((self._thread.submit(self._maker, step[0]), step[1]))
