"""`Neighborhood`: the tensors that enter every model, for any number of frames at once.

`Neighborhood.tensors` gives them in the order of the inputs of a frozen model (format 2), shared with the C++
side. N owned atoms, R feature rows (owned, then remote atoms of other ranks), F frames; of a list: E edges,
A pairs; of a list within it: B edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpsim import ops
from dpsim.physics.neighbors import FrameGraph, InnerEdges, ModelInputs, NeighborSpec, pair_indices, row_pointers


class Pairs(NamedTuple):
    """All ordered pairs of the edges of one centre."""

    ij: Tensor
    """(A,) int64, an edge of the list; ascending."""
    ik: Tensor
    """(A,) int64, an edge of the list; ascending for the same `ij`."""
    ptr: Tensor
    """(E + 1,) int64, CSR of `ij`."""


class InnerList(NamedTuple):
    """Edges within another list."""

    edge: Tensor
    """(B,) int64, ascending positions in the list around it."""
    edge_ptr: Tensor
    """(N + 1,) int64, CSR of the centres."""
    pairs: Pairs | None
    inner: tuple[InnerList, ...]


class Neighborhood(NamedTuple):
    """Atoms and their edges, flat over all frames of a batch."""

    displacements: Tensor
    """(E, 3) float64, Å: neighbour minus centre, image included."""
    types: Tensor
    """(N,) int64"""
    row_types: Tensor
    """(R,) int64; the first N are `types`."""
    frame: Tensor
    """(N,) int64, the frame each atom belongs to."""
    center: Tensor
    """(E,) int64, ascending."""
    neighbor: Tensor
    """(E,) int64, a feature row."""
    edge_ptr: Tensor
    """(N + 1,) int64, CSR of `center`."""
    plan: Tensor
    """(1,) int64 on the CPU: handle of the halo plan; 0 in a single process."""
    pairs: Pairs | None = None
    inner: tuple[InnerList, ...] = ()
    fparam: Tensor | None = None
    """(F, n_fparam) float64"""
    aparam: Tensor | None = None
    """(N, n_aparam) float64"""
    charge_spin: Tensor | None = None
    """(F, 2) float64: total charge, spin multiplicity."""
    offsets: Tensor | None = None
    """(N, 3) float64, Å, of virtual atoms from theirs: no input of a model, but of the virial of spin models."""

    @property
    def n_atoms(self) -> int:
        """Number of owned atoms."""
        return self.types.shape[0]

    def within(self, k: int) -> Neighborhood:
        """Inner list `k` as a neighbourhood of its own."""
        part = self.inner[k]
        return self._replace(
            displacements=ops.gather_rows(self.displacements, part.edge),
            center=self.center.index_select(0, part.edge),
            neighbor=self.neighbor.index_select(0, part.edge),
            edge_ptr=part.edge_ptr,
            pairs=part.pairs,
            inner=part.inner,
        )

    def at(self, path: Sequence[int]) -> Neighborhood:
        """Follow `path` inwards, as `NeighborSpec.at` does."""
        return self if not path else self.within(path[0]).at(path[1:])

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, flat, in the order of the inputs of a frozen model."""
        extra = [t for t in (self.fparam, self.aparam, self.charge_spin) if t is not None]
        return (*self[:7], *(self.pairs or ()), *_flat(self.inner), *extra, self.plan)

    @classmethod
    def from_tensors(cls, spec: NeighborSpec, inputs: ModelInputs, tensors: Sequence[Tensor]) -> Neighborhood:
        """Inverse of `tensors`, for a model with these lists and inputs."""
        left = iter(tensors)
        first = [next(left) for _ in range(7)]
        pairs = Pairs(next(left), next(left), next(left)) if spec.pairs else None
        inner = _nested(spec, left)
        takes = (inputs.n_fparam > 0, inputs.n_aparam > 0, inputs.charge_spin)
        fparam, aparam, charge_spin = (next(left) if taken else None for taken in takes)
        plan = next(left)
        return cls._make([*first, plan, pairs, inner, fparam, aparam, charge_spin, None])

    def to(self, device: torch.device | str) -> Neighborhood:
        """Copy to a device (the plan handle stays on the CPU)."""

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, Pairs | InnerList):
                return type(value)(*map(moved, value))  # type: ignore[arg-type]
            return tuple(map(moved, value)) if isinstance(value, tuple) else value

        return Neighborhood._make([moved(value) for value in self])._replace(plan=self.plan)


def _flat(inner: tuple[InnerList, ...]) -> Iterator[Tensor]:
    for one in inner:
        yield from (one.edge, one.edge_ptr, *(one.pairs or ()), *_flat(one.inner))


def _nested(spec: NeighborSpec, left: Iterator[Tensor]) -> tuple[InnerList, ...]:
    lists = []
    for one in spec.inner:
        edge, edge_ptr = next(left), next(left)
        pairs = Pairs(next(left), next(left), next(left)) if one.pairs else None
        lists.append(InnerList(edge, edge_ptr, pairs, _nested(one, left)))
    return tuple(lists)


def _pairs(edge_ptr: np.ndarray) -> Pairs:
    counts = np.diff(edge_ptr)
    ij, ik = pair_indices(counts)
    ptr = np.concatenate([[0], np.cumsum(np.repeat(counts, counts))]).astype(np.int64)
    return Pairs(torch.from_numpy(ij), torch.from_numpy(ik), torch.from_numpy(ptr))


def _inner(
    spec: NeighborSpec, lists: Sequence[tuple[InnerEdges, ...]], sizes: np.ndarray, center: np.ndarray, n_atoms: int
) -> tuple[InnerList, ...]:
    """Join the inner lists of several frames, without pairs; `sizes` are their numbers of edges in the list around."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    joined = []
    for k, one in enumerate(spec.inner):
        parts = [inner[k] for inner in lists]
        edge = np.concatenate([part.edge + o for part, o in zip(parts, offsets, strict=False)]).astype(np.int64)
        mine = center[edge]
        edge_ptr = row_pointers(mine, n_atoms)
        counts = np.array([len(part.edge) for part in parts])
        within = _inner(one, [part.inner for part in parts], counts, mine, n_atoms)
        joined.append(InnerList(torch.from_numpy(edge), torch.from_numpy(edge_ptr), None, within))
    return tuple(joined)


def with_pairs(hood: Neighborhood, spec: NeighborSpec) -> Neighborhood:
    """A neighbourhood without pairs with those that its lists ask for."""

    def filled(one: InnerList, wanted: NeighborSpec) -> InnerList:
        within = tuple(map(filled, one.inner, wanted.inner))
        return one._replace(pairs=_pairs(one.edge_ptr.numpy()) if wanted.pairs else None, inner=within)

    return hood._replace(
        pairs=_pairs(hood.edge_ptr.numpy()) if spec.pairs else None, inner=tuple(map(filled, hood.inner, spec.inner))
    )


def collate(frames: Sequence[FrameGraph]) -> Neighborhood:
    """Join the graphs of frames of any size and composition, made with one spec, into one `Neighborhood`."""
    return with_pairs(join(frames), frames[0].spec)


def join(frames: Sequence[FrameGraph]) -> Neighborhood:
    """As `collate`, without the pairs of any list."""
    spec, n_edges = frames[0].spec, np.array([f.n_edges for f in frames])
    sizes = np.array([f.n_atoms for f in frames], dtype=np.int64)
    atoms = np.concatenate([[0], np.cumsum(sizes)])
    n_atoms = int(atoms[-1])

    def joined(name: str, offsets: np.ndarray | None = None) -> np.ndarray:
        parts = [getattr(f, name) for f in frames]
        return np.concatenate(parts if offsets is None else [p + o for p, o in zip(parts, offsets, strict=False)])

    def given(name: str, by_atom: bool) -> Tensor | None:
        if getattr(frames[0], name) is None:
            return None
        values = [getattr(f, name) for f in frames]
        return torch.from_numpy(np.concatenate(values) if by_atom else np.stack(values)).to(torch.float64)

    center = joined("center", atoms)
    types = torch.from_numpy(joined("types"))
    return Neighborhood(
        displacements=torch.from_numpy(joined("displacements")),
        types=types,
        row_types=types,
        frame=torch.from_numpy(np.repeat(np.arange(len(frames), dtype=np.int64), sizes)),
        center=torch.from_numpy(center),
        neighbor=torch.from_numpy(joined("neighbor", atoms)),
        edge_ptr=torch.from_numpy(row_pointers(center, n_atoms)),
        plan=torch.zeros(1, dtype=torch.int64),
        inner=_inner(spec, [f.inner for f in frames], n_edges, center, n_atoms),
        fparam=given("fparam", False),
        aparam=given("aparam", True),
        charge_spin=given("charge_spin", False),
        offsets=given("offsets", True),
    )
