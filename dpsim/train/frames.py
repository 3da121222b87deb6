"""The frames of a training: types in the order of the model, checks, and what is counted before the first step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpsim.data import Dataset, Frame, open_dataset
from dpsim.errors import DataError
from dpsim.model.statistics import composition
from dpsim.physics.neighbors import edge_list

DataSource = str | Path | Sequence[str | Path] | Dataset

CLOSEST = 0.1
"""Å; the bond of H2 is 0.74, and nuclei nearer than this are an error of the file, not a collision."""
_SEARCHED = 1.5  # Å; the search for close atoms is fastest with a cutoff of about a bond
THINNEST = 0.5
"""Å between opposite faces of a periodic box; below it the box is flat or in the wrong unit."""
SCANNED = 50_000
"""Frames that are read before the first step; of larger sets as many, evenly spaced."""


class FrameSet:
    """Frames whose types refer to the model's elements.

    Parameters
    ----------
    data
        A data set, or folders to open as one.
    type_map
        The model's elements; None takes those of the data.

    Raises
    ------
    DataError
        If the data cannot be read, hold no frame, or have an element that the model does not know.
    """

    def __init__(self, data: DataSource, type_map: Sequence[str] | None) -> None:
        self.dataset = data if isinstance(data, Dataset) else open_dataset(data, type_map)
        self.type_map = tuple(self.dataset.type_map if type_map is None else type_map)
        if not len(self.dataset):
            raise DataError("the data hold no frame, expected at least one: check the folders of `data`")
        known = {name: t for t, name in enumerate(self.type_map)}
        self._lookup = np.array([known.get(name, -1) for name in self.dataset.type_map], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Frame:
        """Frame `i`, checked."""
        frame = self.dataset[i]
        types = self._lookup[frame.types]
        if types.min(initial=0) < 0:
            names = sorted({self.dataset.type_map[t] for t in frame.types[types < 0]})
            raise DataError(
                f"{frame.source}: element {', '.join(names)} is not in the model's type_map "
                f"({' '.join(self.type_map)}): add it there or leave this system out"
            )
        frame = replace(frame, types=types)
        check_structure(frame)
        return frame

    def n_atoms(self, i: int) -> int:
        """Number of atoms of frame `i`."""
        system, row = self.dataset.locate(i)
        return len(system.types(row)) if system.mixed else system.n_places

    def pools(self, sampling: str) -> list[np.ndarray]:
        """Frame indices between which batches choose: one pool of all frames, or one for each system."""
        if sampling == "frames":
            return [np.arange(len(self))]
        ends = np.cumsum([0] + [system.n_frames for system in self.dataset.systems])
        return [np.arange(a, b) for a, b in itertools.pairwise(ends) if b > a]

    def spread(self, limit: int | None) -> list[int]:
        """At most `limit` frame indices, evenly spaced; all of them if None."""
        n = len(self)
        return list(range(n)) if limit is None or limit >= n else [i * n // limit for i in range(limit)]


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
    """(M, n_types) of the M frames with an energy."""
    energies: np.ndarray
    """(M,) eV."""
    forces_std: float
    """Root mean square of the force components, eV/Å; NaN without forces."""
    digest: str
    """Hex digest of the frames' structures and energies."""


def scan(frames: FrameSet) -> Scan:
    """Read and check the frames once, before anything is trained.

    Raises
    ------
    DataError
        Naming the first frame that is not finite, has a flat box, or two atoms in one place.
    """
    labels: dict[str, int] = {}
    n_types = len(frames.type_map)
    atoms, compositions, energies = np.zeros(n_types), [], []
    square = components = 0.0
    digest = hashlib.blake2b(str((len(frames), frames.type_map)).encode(), digest_size=20)
    indices = frames.spread(SCANNED)
    for i in indices:
        frame = frames[i]
        counts = composition(frame.types, n_types)
        atoms += counts
        digest.update(frame.positions.tobytes())
        digest.update(frame.types.tobytes())
        for name in frame.labels:
            labels[name] = labels.get(name, 0) + 1
        if "energy" in frame.labels:
            compositions.append(counts)
            energies.append(float(frame.labels["energy"]))
            digest.update(np.float64(energies[-1]).tobytes())
        if "forces" in frame.labels:
            square += float(np.square(frame.labels["forces"]).sum())
            components += frame.labels["forces"].size
    rms = float(np.sqrt(square / components)) if components else float("nan")
    table = np.array(compositions).reshape(-1, n_types)
    return Scan(len(indices), labels, atoms, table, np.array(energies), rms, digest.hexdigest())


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
    center, neighbor, displacements = edge_list(frame.positions, frame.cell, periodic, _SEARCHED)
    distance = np.linalg.norm(displacements, axis=1)
    if distance.min(initial=CLOSEST) < CLOSEST:
        e = int(distance.argmin())
        raise DataError(
            f"{frame.source}: atoms {center[e]} and {neighbor[e]} are {distance[e]:.3g} Å apart, expected at least "
            f"{CLOSEST} Å: remove the frame, or correct its coordinates or box"
        )


def require_labels(found: Scan, terms: Sequence[str], what: str) -> None:
    """Refuse a loss with a term that no frame has labels for.

    Raises
    ------
    DataError
        Naming the term.
    """
    for term in terms:
        for field in needed_fields(term):
            if not found.labels.get(field):
                have = ", ".join(found.labels) or "none"
                raise DataError(
                    f"loss.{term}: no frame of the {what} data has the label {field!r} (labels found: {have}): "
                    f"add the label to the data, or write `{term}: off` in the loss"
                )


def needed_fields(term: str) -> tuple[str, ...]:
    """Labels that a term of the loss compares with."""
    return ("forces", "force_weight") if term == "weighted_forces" else (term,)
