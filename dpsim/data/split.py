"""Dividing frames into training, validation and test sets, the same way every time for a seed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from dpsim.data.dataset import Dataset
from dpsim.data.frame import Frame
from dpsim.errors import DataError

By = Literal["frame", "structure", "trajectory", "formula"]
"""What stays together: nothing, frames of one origin (structure and trajectory mean the same), or of one formula."""


def split_frames(
    frames: Dataset | Sequence[Frame],
    fractions: Mapping[str, float],
    *,
    by: By = "frame",
    seed: int = 0,
    type_map: Sequence[str] | None = None,
) -> dict[str, list[int]]:
    """Divide frames into named parts.

    Parameters
    ----------
    frames
        A data set, or a list of frames.
    fractions
        Share of the frames in each part, for example ``{"train": 0.8, "valid": 0.1, "test": 0.1}``; they sum to one.
    by
        What is kept in one part: a frame, all frames of one origin, or all frames of one formula.
    seed
        Of the shuffle.
    type_map
        Needed for `by` formula where `frames` is a list.

    Returns
    -------
    dict of list of int
        Ascending indices for each part with a share above zero; every frame is in exactly one part.

    Raises
    ------
    DataError
        If the fractions do not sum to one, or there are fewer groups than parts.
    """
    return divide(group_keys(frames, by, type_map), fractions, by=by, seed=seed)


def group_keys(frames: Dataset | Sequence[Frame], by: By, type_map: Sequence[str] | None = None) -> list[Hashable]:
    """Return one key for each frame; frames with the same key stay together.

    Raises
    ------
    DataError
        If `by` is not one of the known ways.
    """
    if by not in get_args(By):
        raise DataError(f"split by {by!r} is not known, expected one of {', '.join(get_args(By))}")
    if by == "frame":
        return list(range(len(frames)))
    if isinstance(frames, Dataset):
        pairs = [(system, i) for system in frames.systems for i in range(system.n_frames)]
        return [system.formula(i) if by == "formula" else system.origin(i) for system, i in pairs]
    if by == "formula":
        if type_map is None:
            raise ValueError("splitting a list of frames by formula needs its type_map")
        return [frame.formula(type_map) for frame in frames]
    return [frame.origin or frame.source for frame in frames]


def divide(keys: Sequence[Hashable], fractions: Mapping[str, float], *, by: str, seed: int) -> dict[str, list[int]]:
    """Divide indices so that equal keys stay together and the shares come out as near as they can.

    The groups are shuffled and each goes to the part that lacks most; the last ones go to parts still empty.
    Result and errors as in `split_frames`.
    """
    for name, fraction in fractions.items():
        if not (math.isfinite(fraction) and fraction >= 0):
            raise DataError(f"split: the share of {name} is {fraction}, expected a number between 0 and 1")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        shares = ", ".join(f"{name} {fraction:g}" for name, fraction in fractions.items())
        raise DataError(f"split: the shares ({shares}) sum to {sum(fractions.values()):g}, expected 1")
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    parts: dict[str, list[int]] = {name: [] for name, fraction in fractions.items() if fraction > 0}
    if len(groups) < len(parts):
        unit = {"frame": "frames", "formula": "formulas"}.get(by, "structures")
        remedy = "add frames or ask for fewer parts" if by == "frame" else "split by frame, or ask for fewer parts"
        raise DataError(
            f"split: {len(keys)} frames of {len(groups)} {unit} cannot fill {len(parts)} parts "
            f"({', '.join(parts)}) with at least one of the {unit} each: {remedy}"
        )
    lacking = {name: fractions[name] * len(keys) for name in parts}
    members = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(members))
    for done, place in enumerate(order):
        empty = [name for name in parts if not parts[name]]
        open_parts = empty if len(members) - done == len(empty) else list(parts)
        name = max(open_parts, key=lacking.__getitem__)
        parts[name] += members[place]
        lacking[name] -= len(members[place])
    return {name: sorted(indices) for name, indices in parts.items()}
