"""Frames that never enter a training: too large, with atoms too near, with forces too long."""

from __future__ import annotations

import logging

import numpy as np

from dpsim.data import Dataset, Frame
from dpsim.data.distances import pairs
from dpsim.errors import DataError
from dpsim.train.settings.data import FrameFilter, Size

log = logging.getLogger("dpsim.train")


def kept_frames(
    dataset: Dataset, wanted: FrameFilter | None, size: Size | None = None
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Look at every frame once.

    Parameters
    ----------
    wanted
        What frames must be like.
    size
        Batch size; ``filter:N`` leaves frames of more than N atoms out.

    Returns
    -------
    indices, dropped
        Ascending indices of the frames that stay, None without a filter; and the number of those that do not, by the
        setting that sends them away: ``max_atoms``, ``min_distance`` or ``max_force``.

    Raises
    ------
    DataError
        If no frame stays.
    """
    max_atoms = size.number if size is not None and size.rule == "filter" else None
    if wanted is None and max_atoms is None:
        return None, {}
    dropped = {} if max_atoms is None else {"max_atoms": 0}
    if wanted is not None:
        limits = {"min_distance": wanted.min_distance, "max_force": wanted.max_force}
        dropped |= {name: 0 for name, limit in limits.items() if limit is not None}
    kept = []
    for i in range(len(dataset)):
        why = _reason(dataset, i, wanted, max_atoms)
        if why is None:
            kept.append(i)
        else:
            dropped[why] += 1
    told = ", ".join(f"{count} by {name}" for name, count in dropped.items())
    if not kept:
        raise DataError(f"all {len(dataset)} frames are left out ({told}): relax frame_filter or batch_size")
    log.info("%d of %d frames are left out: %s", len(dataset) - len(kept), len(dataset), told)
    return np.array(kept), dropped


def _reason(dataset: Dataset, i: int, wanted: FrameFilter | None, max_atoms: int | None) -> str | None:
    """Setting that sends a frame away, None if it stays."""
    system, row = dataset.locate(i)
    if max_atoms is not None and system.n_atoms(row) > max_atoms:
        return "max_atoms"
    if wanted is None:
        return None
    frame = system.frame(row)
    if wanted.max_force is not None and _longest_force(frame) > wanted.max_force:
        return "max_force"
    if wanted.min_distance is not None and _shortest_distance(frame, wanted.min_distance) < wanted.min_distance:
        return "min_distance"
    return None


def _longest_force(frame: Frame) -> float:
    """eV/Å; 0 without forces."""
    forces = frame.labels.get("forces", np.zeros((1, 3)))
    return float(np.linalg.norm(forces, axis=1).max(initial=0.0))


def _shortest_distance(frame: Frame, cutoff: float) -> float:
    """Å between two atoms; infinity if none are within `cutoff`."""
    _, _, distances = pairs(frame, cutoff)
    return float(distances.min(initial=np.inf))
