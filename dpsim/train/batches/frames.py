"""The frames of a training: types in the order of the model, checks, and what is counted before the first step."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpsim.data import Dataset, Frame, open_dataset
from dpsim.errors import DataError
from dpsim.model.statistics import Moments, composition
from dpsim.physics.neighbors import ModelInputs, edge_list
from dpsim.train.batches.frame_filter import kept_frames
from dpsim.train.batches.parameters import wanted
from dpsim.train.batches.system_shares import system_probabilities
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.settings.data import FrameFilter, Sampling, Size, SystemSampling
from dpsim.train.settings.loss import LossConfig

DataSource = str | Path | Sequence[str | Path] | Dataset

CLOSEST = 0.1
"""Å; the bond of H2 is 0.74, and nuclei nearer than this are an error of the file, not a collision."""
_SEARCHED = 1.5  # Å; the search for close atoms is fastest with a cutoff of about a bond
THINNEST = 0.5
"""Å between opposite faces of a periodic box; below it the box is flat or in the wrong unit."""
SCANNED = 50_000
"""Frames that are read before the first step; of larger sets as many, evenly spaced. The others are checked when they
are drawn."""
SCANNED_ATOMS = 1_000_000
"""Atoms of these frames, about: a few seconds."""
_SYSTEMS = 10
"""Times as many systems as frames are wanted of which each still gives a frame."""
_EXAMPLES = 10
"""Frames that are known of each element."""


class FrameSet:
    """Frames whose types refer to the model's elements.

    Parameters
    ----------
    data
        A data set, or folders to open as one.
    type_map
        The model's elements; None takes those of the data.
    property_name
        File of the field ``property``, where `data` are folders.
    only
        What frames must be like; the others are left out.
    size
        Batch size, which may leave out large frames.
    what
        Name of the data in messages.
    workers
        Processes that have the same frames: one looks at what they are like, for all.

    Raises
    ------
    DataError
        If the data cannot be read, hold no frame, or have an element that the model does not know.
    """

    def __init__(
        self,
        data: DataSource,
        type_map: Sequence[str] | None,
        property_name: str = "",
        *,
        only: FrameFilter | None = None,
        size: Size | None = None,
        what: str = "",
        workers: Workers = ALONE,
    ) -> None:
        self.dataset = data if isinstance(data, Dataset) else open_dataset(data, type_map, property_name=property_name)
        self.type_map = tuple(self.dataset.type_map if type_map is None else type_map)
        if not len(self.dataset):
            named = ", ".join(str(system.path) for system in self.dataset.systems[:4]) or "no system"
            raise DataError(
                f"the {what + ' ' if what else ''}data hold no frame ({named}), expected at least one: check their "
                "folders, or leave them out"
            )
        self._kept, self.dropped = workers.once(lambda: kept_frames(self.dataset, only, size))
        """Indices of the frames that stay, None for all; and the number of those that do not, by setting."""
        known = {name: t for t, name in enumerate(self.type_map)}
        self._lookup = np.array([known.get(name, -1) for name in self.dataset.type_map], dtype=np.int64)
        self.changed: Callable[[int, Frame], Frame] | None = None
        """What is made of each frame, given its index, before anybody sees it."""

    def __len__(self) -> int:
        return len(self.dataset) if self._kept is None else len(self._kept)

    def __getitem__(self, i: int) -> Frame:
        """Frame `i`, checked."""
        frame = self.dataset[self._place(i)]
        types = self._lookup[frame.types]
        if types.min(initial=0) < 0:
            names = sorted({self.dataset.type_map[t] for t in frame.types[types < 0]})
            raise DataError(
                f"{frame.source}: element {', '.join(names)} is not in the model's type_map "
                f"({' '.join(self.type_map)}): add it there or leave this system out"
            )
        frame = replace(frame, types=types)
        check_structure(frame)
        return frame if self.changed is None else self.changed(i, frame)

    def n_atoms(self, i: int) -> int:
        """Number of atoms of frame `i`."""
        system, row = self.dataset.locate(self._place(i))
        return system.n_atoms(row)

    def pools(self, sampling: Sampling) -> list[np.ndarray]:
        """Frame indices between which batches choose: one pool of all frames, or one for each system with frames."""
        if sampling == "frames":
            return [np.arange(len(self))]
        pools = self.systems()
        if sampling == "systems":
            return [pool for pool in pools if len(pool)]
        return [pool for pool, p in zip(pools, self._chances(sampling), strict=True) if p > 0]

    def probabilities(self, sampling: Sampling) -> list[float] | None:
        """Probability of each pool to be chosen; None if all have the same."""
        if not isinstance(sampling, SystemSampling):
            return None
        return [float(p) for p in self._chances(sampling) if p > 0]

    def _chances(self, sampling: SystemSampling) -> np.ndarray:
        names = [system.name for system in self.dataset.systems]
        return system_probabilities(sampling, names, [len(pool) for pool in self.systems()])

    def systems(self) -> list[np.ndarray]:
        """Frame indices of each system of the data, in their order; a system may have none."""
        ends = np.cumsum([0] + [system.n_frames for system in self.dataset.systems])
        if self._kept is not None:
            ends = np.searchsorted(self._kept, ends)
        return [np.arange(a, b) for a, b in itertools.pairwise(ends)]

    def _place(self, i: int) -> int:
        """Index in the data set."""
        return i if self._kept is None else int(self._kept[i])

    def spread(self, limit: int | None) -> list[int]:
        """At most `limit` frame indices, evenly spaced; all of them if None."""
        n = len(self)
        return list(range(n)) if limit is None else spaced(range(n), limit)

    def sample(self, number: int) -> list[int]:
        """About `number` frame indices, evenly spaced within each system, of which each has one at least.

        Of very many systems, those of every second, third... are taken.
        """
        n, pools = len(self), self.systems()
        if number >= n:
            return list(range(n))
        if len(pools) > number * _SYSTEMS:
            return self.spread(number * _SYSTEMS)
        return [i for pool in pools for i in spaced(pool, math.ceil(number * len(pool) / n))]


def spaced(pool: Sequence[int] | np.ndarray, limit: int) -> list[int]:
    """At most `limit` of some numbers, evenly spaced."""
    n = min(len(pool), limit)
    return [int(pool[k * len(pool) // n]) for k in range(n)]


@dataclass(frozen=True)
class Scan:
    """What a pass over the frames found."""

    n_frames: int
    """Frames looked at."""
    labels: dict[str, int]
    """Frames that have each field, for the fields that occur."""
    atoms: np.ndarray
    """(n_types,) number of atoms of each type."""
    compositions: np.ndarray
    """(M, n_types) of the M frames with a label of what is predicted."""
    values: np.ndarray
    """(M, k) these labels, flat: for example energies in eV."""
    of_types: Moments | None
    """Of the labels of atoms by type, where there are any; energies are fitted to those of structures."""
    parameters: dict[str, Moments]
    """Of ``fparam`` over the frames and ``aparam`` over the atoms, where they occur."""
    forces_std: float
    """Root mean square of the force components, eV/Å; NaN without forces."""
    digest: str
    """Hex digest of what the frames hold."""
    holding: np.ndarray
    """(n_types,) number of frames that have atoms of each type."""
    examples: tuple[tuple[int, ...], ...]
    """Some of their indices, by type."""
    first: dict[str, int]
    """Index of the first frame that has each field."""

    def sample(self, frames: FrameSet, number: int) -> list[int]:
        """About `number` indices of the frames that were scanned (see `FrameSet.sample`), with those of rare types."""
        chosen = frames.sample(number)
        expected = self.holding * (len(chosen) / max(self.n_frames, 1))
        rare = [examples for n, examples in zip(expected, self.examples, strict=True) if n < _EXAMPLES]
        return sorted({*chosen, *itertools.chain(*rare)})


class _Gatherer:
    """Sums of `Scan`, frame by frame."""

    def __init__(self, output: str, n_types: int) -> None:
        self.output, self.n_types = output, n_types
        self.labels: dict[str, int] = {}
        self.atoms = np.zeros(n_types)
        self.compositions: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.of_types: Moments | None = None
        self.parameters: dict[str, Moments] = {}
        self.square = self.components = 0.0
        self.holding = np.zeros(n_types, dtype=np.int64)
        self.examples: list[list[int]] = [[] for _ in range(n_types)]
        self.first: dict[str, int] = {}

    def add(self, index: int, frame: Frame) -> None:
        counts = composition(frame.types, self.n_types)
        self.atoms += counts
        for t in np.flatnonzero(counts):
            self.holding[t] += 1
            if len(self.examples[t]) < _EXAMPLES:
                self.examples[t].append(index)
        for name in frame.labels:
            self.labels[name] = self.labels.get(name, 0) + 1
            self.first.setdefault(name, index)
        if self.output in frame.labels:
            self.compositions.append(counts)
            self.values.append(np.asarray(frame.labels[self.output], dtype=np.float64).reshape(-1))
        if "forces" in frame.labels:
            self.square += float(np.square(frame.labels["forces"]).sum())
            self.components += frame.labels["forces"].size
        atomic = f"atomic_{self.output}"
        if self.output != "energy" and atomic in frame.labels:
            rows = frame.labels[atomic].reshape(frame.n_atoms, -1)
            self.of_types = Moments.of(rows, frame.types, self.n_types).joined(self.of_types)
        for name in ("fparam", "aparam"):
            if name in frame.labels:
                rows = np.atleast_2d(frame.labels[name])
                found = Moments.of(rows, np.zeros(len(rows), dtype=np.int64), 1)
                self.parameters[name] = found.joined(self.parameters.get(name))


def scan(frames: FrameSet, output: str = "energy") -> Scan:
    """Read and check the frames once, before anything is trained.

    Parameters
    ----------
    output
        What the model predicts: its labels are gathered.

    Raises
    ------
    DataError
        Naming the first frame that is not finite, has a flat box, or two atoms in one place.
    """
    found = _Gatherer(output, len(frames.type_map))
    digest = hashlib.blake2b(str((len(frames), frames.type_map)).encode(), digest_size=20)
    indices = frames.sample(_scanned(frames))
    for i in indices:
        frame = frames[i]
        try:
            found.add(i, frame)
        except ValueError as error:
            raise DataError(f"{frame.source}: {error}") from None
        digest.update(frame.positions.tobytes())
        digest.update(frame.types.tobytes())
        digest.update(b"open" if frame.cell is None else frame.cell.tobytes())
        for name in sorted(frame.labels):
            digest.update(name.encode())
            digest.update(np.asarray(frame.labels[name], dtype=np.float64).tobytes())
    n_types, width = len(frames.type_map), {len(value) for value in found.values}
    if len(width) > 1:
        raise DataError(f"{output}: frames have {' or '.join(map(str, sorted(width)))} numbers, expected equally many")
    rms = float(np.sqrt(found.square / found.components)) if found.components else float("nan")
    return Scan(
        n_frames=len(indices),
        labels=found.labels,
        atoms=found.atoms,
        compositions=np.array(found.compositions).reshape(-1, n_types),
        values=np.array(found.values).reshape(len(found.values), -1) if found.values else np.zeros((0, 1)),
        of_types=found.of_types,
        parameters=found.parameters,
        forces_std=rms,
        digest=digest.hexdigest(),
        holding=found.holding,
        examples=tuple(map(tuple, found.examples)),
        first=found.first,
    )


def _scanned(frames: FrameSet) -> int:
    """Number of frames to look at, from the sizes of some."""
    some = [frames.n_atoms(i) for i in frames.spread(100)]
    return min(SCANNED, max(SCANNED_ATOMS * len(some) // max(sum(some), 1), 1))


def check_structure(frame: Frame) -> None:
    """Refuse a flat or tiny periodic box and atoms in one place.

    Raises
    ------
    DataError
        Naming the frame.
    """
    if frame.n_atoms == 0:
        raise DataError(f"{frame.source}: the frame has no atoms, expected at least one: remove it")
    if frame.cell is not None:
        heights = 1 / np.linalg.norm(np.linalg.inv(frame.cell), axis=0)
        if heights.min() < THINNEST:
            raise DataError(
                f"{frame.source}: the box is {heights.min():.3g} Å thin along vector {int(heights.argmin()) + 1}, "
                f"expected at least {THINNEST} Å: correct the box or its unit, or for open boundaries "
                "put an empty file `nopbc` beside type.raw"
            )
    periodic = (frame.cell is not None,) * 3
    try:
        center, neighbor, displacements = edge_list(frame.positions, frame.cell, periodic, _SEARCHED)
    except DataError as error:
        raise DataError(f"{frame.source}: {error}") from None
    distance = np.linalg.norm(displacements, axis=1)
    if distance.min(initial=CLOSEST) < CLOSEST:
        e = int(distance.argmin())
        raise DataError(
            f"{frame.source}: atoms {center[e]} and {neighbor[e]} are {distance[e]:.3g} Å apart, expected at least "
            f"{CLOSEST} Å: remove the frame, or correct its coordinates or box"
        )


def require_labels(frames: FrameSet, found: Scan, loss: LossConfig, output: str, what: str) -> None:
    """Refuse a loss with a term that no frame has labels for.

    Raises
    ------
    DataError
        Naming the term.
    """
    for term in loss.active:
        for field in loss.needs(term, output):
            if not found.labels.get(field) and not (found.n_frames < len(frames) and frames.dataset.labels.get(field)):
                have = ", ".join(found.labels) or "none"
                raise DataError(
                    f"loss.{term}: no frame of the {what} data has the label {field!r} (labels found: {have}): "
                    f"add the label to the data, or write `{term}: {0 if loss.type == 'tensor' else 'off'}` in the loss"
                )


def require_parameters(found: Scan, inputs: ModelInputs, what: str) -> None:
    """Refuse data that lack what a model takes beside the structure and has no default for.

    Raises
    ------
    DataError
        Naming the file that is missing.
    """
    for name, (size, default) in wanted(inputs).items():
        there = found.labels.get(name, 0)
        if there < found.n_frames and default is None:
            raise DataError(
                f"the model takes {name} ({size} numbers), and {found.n_frames - there} of {found.n_frames} frames of "
                f"the {what} data have none: add {name}.npy to the data"
            )
