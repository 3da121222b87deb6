"""From frames to batches: neighbourhoods are made once and kept, ahead of the step that needs them.

Threads choose and prepare the next batches while the current one is computed. What fits into the memory given is kept;
the rest is made anew each time it is drawn.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpsim.data import Frame
from dpsim.errors import DataError
from dpsim.fields import BY_NAME, FIELDS
from dpsim.model.base import Model
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, ModelInputs, NeighborSpec, frame_graph
from dpsim.physics.spin import spin_graph
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.parameters import parameters_of

LABELS = tuple(entry.name for entry in FIELDS if entry.label)
"""Fields that a loss can compare with."""
_NOTHING = ModelInputs()
AHEAD = 2
"""Batches prepared in advance, for each thread that prepares them."""
RECENT_BYTES = 64 << 20
"""Memory for neighbourhoods that were made to count their edges and are about to be used."""

_Plan = TypeVar("_Plan")
_Tag = TypeVar("_Tag")


class Label(NamedTuple):
    """One field over a batch of F frames and N atoms; rows without the label are zero and weigh nothing."""

    values: Tensor
    """(F, ...) or (N, ...) float64; of matrices all entries of all frames."""
    weight: Tensor | None
    """(F,) or (N,): 1 where the label counts, else 0; None if it counts everywhere. Of matrices one for each entry."""
    size: int
    """Number of rows that count."""


@dataclass(frozen=True)
class Batch:
    """Frames of any size and composition, ready for the model."""

    neighborhood: Neighborhood
    n_frames: int
    n_atoms: Tensor
    """(F,) float64: atoms with an output of their own, at least 1."""
    frame: Tensor
    """(N,) int64, the frame of each atom; without the virtual atoms of spin models."""
    labels: dict[str, Label]
    """By field; a missing key means that no frame has it."""
    sources: tuple[str, ...]
    """Where each frame lies, for messages."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time that making the batch took: ``reading`` the frames, their ``neighbours``, and ``joining`` them."""

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        if device.type == "cpu":
            return self
        labels = {
            name: Label(label.values.to(device), None if label.weight is None else label.weight.to(device), label.size)
            for name, label in self.labels.items()
        }
        return replace(
            self,
            neighborhood=self.neighborhood.to(device),
            n_atoms=self.n_atoms.to(device),
            frame=self.frame.to(device),
            labels=labels,
        )


class _Sample(NamedTuple):
    graph: FrameGraph
    types: np.ndarray
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
    inputs
        What it takes beside the structure.
    spin
        Of spin models: see `dpsim.model.base.Model.spin`.
    excluded
        Types without an output of their own: they do not enter the errors.
    labels
        Fields to compare with.
    cache_bytes
        Memory for neighbourhoods that are kept.
    """

    def __init__(
        self,
        frames: FrameSet,
        spec: NeighborSpec,
        *,
        inputs: ModelInputs = _NOTHING,
        spin: Sequence[float] | None = None,
        excluded: Sequence[int] = (),
        labels: Sequence[str] = LABELS,
        cache_bytes: float = 0.0,
    ) -> None:
        self.frames, self.spec, self.inputs, self.spin = frames, spec, inputs, spin
        self.excluded, self.labels = tuple(excluded), tuple(labels)
        self._free = cache_bytes
        self._kept: dict[int, _Sample] = {}
        self._recent: OrderedDict[int, _Sample] = OrderedDict()
        self._edges: dict[int, int] = {}
        self._counting: dict[str, float] = {}
        self._lock = threading.Lock()

    @classmethod
    def for_model(
        cls, frames: FrameSet, model: Model, labels: Sequence[str] = LABELS, cache_bytes: float = 0.0
    ) -> BatchMaker:
        """For all that a model needs."""
        return cls(
            frames,
            model.neighbors,
            inputs=model.inputs,
            spin=model.spin,
            excluded=model.atom_exclude_types,
            labels=labels,
            cache_bytes=cache_bytes,
        )

    def __call__(self, indices: Sequence[int]) -> Batch:
        """Make the batch of these frames."""
        times = {"reading": 0.0, "neighbours": 0.0, "joining": 0.0}
        with self._lock:
            times |= self._counting  # it was done for these frames, or for others that come soon
            self._counting = {}
        samples = [self._sample(i, times) for i in indices]
        start = time.perf_counter()
        graphs = [sample.graph for sample in samples]
        counted = [~np.isin(sample.types, self.excluded) for sample in samples]
        n_atoms = np.array([max(int(mask.sum()), 1) for mask in counted], dtype=np.float64)
        labels = {name: label for name in self.labels if (label := self._label(name, samples, counted)) is not None}
        frame = np.repeat(np.arange(len(samples)), [len(sample.types) for sample in samples])
        hood = collate(graphs)
        times["joining"] = time.perf_counter() - start
        return Batch(
            neighborhood=hood,
            n_frames=len(samples),
            n_atoms=torch.from_numpy(n_atoms),
            frame=torch.from_numpy(frame),
            labels=labels,
            sources=tuple(sample.source for sample in samples),
            seconds=times,
        )

    def _label(self, name: str, samples: Sequence[_Sample], counted: Sequence[np.ndarray]) -> Label | None:
        if name == "magnetic_forces" and self.spin is not None:  # atoms whose type has no spin have no such force
            has_spin = np.asarray(self.spin) != 0
            counted = [mask & has_spin[sample.types] for mask, sample in zip(counted, samples, strict=True)]
        if BY_NAME[name].kind == "pair":
            return _matrices(name, samples, counted)
        return _collated(name, samples, counted)

    def graph(self, i: int) -> FrameGraph:
        """Neighbourhood of frame `i`."""
        return self._sample(i).graph

    def n_edges(self, i: int) -> int:
        """Number of edges of frame `i`: its pairs of neighbours, each in both directions."""
        if i not in self._edges:
            times: dict[str, float] = {}
            sample = self._sample(i, times)
            with self._lock:
                self._counting = {name: s + self._counting.get(name, 0.0) for name, s in times.items()}
                self._edges[i] = sample.graph.n_edges
                if i not in self._kept:
                    self._recent[i] = sample
                while sum(one.n_bytes for one in self._recent.values()) > RECENT_BYTES and len(self._recent) > 1:
                    self._recent.popitem(last=False)
        return self._edges[i]

    def _sample(self, i: int, times: dict[str, float] | None = None) -> _Sample:
        """Frame `i` with its neighbourhood, kept if there is room; `times` are added to."""
        with self._lock:
            found = self._kept.get(i) or self._recent.pop(i, None)
        if found is None:
            found = self._make(i, {} if times is None else times)
            with self._lock:
                if found.n_bytes <= self._free and i not in self._kept:
                    self._free -= found.n_bytes
                    self._kept[i] = found
        return found

    def _make(self, i: int, times: dict[str, float]) -> _Sample:
        start = time.perf_counter()
        frame = self.frames[i]
        read = time.perf_counter()
        try:
            graph = self._graph(frame)
        except DataError as error:
            raise DataError(f"{frame.source}: {error}") from None
        times["reading"] = times.get("reading", 0.0) + read - start
        times["neighbours"] = times.get("neighbours", 0.0) + time.perf_counter() - read
        labels = {name: frame.labels[name] for name in self.labels if name in frame.labels}
        return _Sample(graph, frame.types, labels, frame.source)

    def _graph(self, frame: Frame) -> FrameGraph:
        given: dict[str, Any] = dict(parameters_of(frame, self.inputs))
        if self.spin is None:
            return replace(frame_graph(frame.positions, frame.types, frame.cell, self.spec), **given)
        if "spin" not in frame.labels:
            raise DataError("the model takes spins, and the frame has none: add spin.npy")
        if "aparam" in given:
            given["aparam"] = np.concatenate([given["aparam"], np.zeros_like(given["aparam"])])
        structure = frame.positions, frame.types, frame.cell, self.spec, None
        return replace(spin_graph(*structure, frame.labels["spin"], self.spin), **given)


def _matrices(name: str, samples: Sequence[_Sample], counted: Sequence[np.ndarray]) -> Label | None:
    """Matrices of the frames, one behind the other; an entry weighs one over the number of those of its frame."""
    present = [name in sample.labels for sample in samples]
    values, weights = [], []
    for sample, mask, has in zip(samples, counted, present, strict=True):
        n = BY_NAME[name].of_frame(len(mask))[0]
        rows = np.repeat(mask, n // max(len(mask), 1)).astype(np.float64)
        values.append(sample.labels[name].ravel() if has else np.zeros(n * n))
        weights.append(np.outer(rows, rows).ravel() * (has / max(rows.sum() ** 2, 1.0)))
    if not any(present):
        return None
    return Label(torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(weights)), sum(present))


def _collated(name: str, samples: Sequence[_Sample], counted: Sequence[np.ndarray]) -> Label | None:
    present = [name in sample.labels for sample in samples]
    if not any(present):
        return None
    atomic = BY_NAME[name].kind == "atom"
    first = samples[present.index(True)].labels[name]
    shape = first.shape[1:] if atomic else first.shape
    values = []
    for sample, mask in zip(samples, counted, strict=True):
        value = sample.labels.get(name, np.zeros((len(mask), *shape) if atomic else shape))
        if value.shape[atomic:] != shape:
            raise DataError(
                f"{sample.source}: {name} has {value[0].size if atomic else value.size} numbers"
                f"{' an atom' if atomic else ''}, another frame has {int(np.prod(shape))}: all frames must agree"
            )
        values.append(value)
    if atomic:
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


class Prefetch(Generic[_Plan, _Tag]):
    """Batches in order, chosen by one thread and made by others ahead of their use.

    Parameters
    ----------
    maker
        Makes a batch of what stands in the plan.
    plan
        For example the frame indices of each batch, each with something that is handed back beside the batch.
    threads
        How many batches are made at a time.
    """

    def __init__(self, maker: Callable[[_Plan], Batch], plan: Iterable[tuple[_Plan, _Tag]], threads: int = 1) -> None:
        self._maker = maker
        self._plan = iter(plan)
        self._ahead = AHEAD * threads
        self._waiting: deque[Future[tuple[Batch, _Tag] | None]] = deque()
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="dpsim-planner")
        self._makers = ThreadPoolExecutor(threads, thread_name_prefix="dpsim-loader")

    def __enter__(self) -> Prefetch[_Plan, _Tag]:
        for _ in range(self._ahead):
            self._submit()
        return self

    def __exit__(self, *exception: object) -> None:
        self._planner.shutdown(wait=True, cancel_futures=True)
        self._makers.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Batch, _Tag]]:
        while self._waiting:
            made = self._waiting.popleft().result()
            if made is None:
                return
            self._submit()
            yield made

    def _submit(self) -> None:
        planned = self._planner.submit(next, self._plan, None)
        self._waiting.append(self._makers.submit(self._make, planned))

    def _make(self, planned: Future[tuple[_Plan, _Tag] | None]) -> tuple[Batch, _Tag] | None:
        step = planned.result()
        return None if step is None else (self._maker(step[0]), step[1])


def making_threads(device: torch.device, neighbours: int = 1) -> int:
    """Threads that make batches: one beside a CPU that computes, a few for a GPU.

    Parameters
    ----------
    neighbours
        Processes that share the cores.
    """
    return 1 if device.type == "cpu" else max(1, min(4, len(os.sched_getaffinity(0)) // (2 * neighbours)))
