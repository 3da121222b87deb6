"""From the wanted shares of systems to the probability of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from dpsim.data.locate import matches
from dpsim.errors import ConfigError
from dpsim.train.settings.data import SystemSampling


def system_probabilities(sampling: SystemSampling, names: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
    """Probability of each system to be drawn from; they sum to one.

    Parameters
    ----------
    names
        Of the systems, in the order of the data.
    sizes
        Their numbers of frames.

    Raises
    ------
    ConfigError
        If blocks or weights do not fit the systems.
    """
    frames = np.asarray(sizes, np.float64)
    found = (
        _of_weights(sampling.weights, frames)
        if sampling.weights is not None
        else _of_blocks(sampling.blocks or {}, names, frames)
    )
    empty = np.flatnonzero((found > 0) & (frames == 0))
    if len(empty):
        raise ConfigError(
            f"sampling: system {empty[0]} ({names[empty[0]]}) has no frames, but is to be drawn from: give it the "
            "weight 0 or leave it out of the data"
        )
    return found / found.sum()


def _of_weights(weights: Sequence[float], frames: np.ndarray) -> np.ndarray:
    given = np.asarray(weights, np.float64)
    if len(given) != len(frames):
        raise ConfigError(
            f"sampling.weights has {len(given)} numbers, but the data hold {len(frames)} systems: give one for each"
        )
    shared = np.where(given < 0, frames, 0.0)
    rest = 1.0 - given[given >= 0].sum()
    if rest > 1e-8 and not shared.sum():
        raise ConfigError("sampling.weights: the systems that share the rest (negative numbers) have no frames")
    return np.where(given < 0, rest * shared / max(shared.sum(), 1.0), given) if rest > 1e-8 else given.clip(min=0)


def _of_blocks(blocks: dict[str, float], names: Sequence[str], frames: np.ndarray) -> np.ndarray:
    total, owner = sum(blocks.values()), [""] * len(names)
    found = np.zeros(len(names))
    for block, share in blocks.items():
        members = _members(block, names)
        for k in members:
            if owner[k]:
                raise ConfigError(
                    f"sampling.blocks: system {k} ({names[k]}) is in {owner[k]!r} and in {block!r}: a system has one "
                    "share, so divide the blocks"
                )
            owner[k] = block
        count = frames[members].sum()
        if share and not count:
            raise ConfigError(f"sampling.blocks: the systems of {block!r} have no frames: leave the block out")
        found[members] = share / total * frames[members] / max(count, 1.0)
    return found


def _members(block: str, names: Sequence[str]) -> list[int]:
    span = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", block)
    if span is None:
        found = [k for k, name in enumerate(names) if matches(PurePosixPath(name), [block])]
        if not found:
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise ConfigError(f"sampling.blocks: {block!r} matches none of the systems ({shown}): correct the pattern")
        return found
    begin, end = int(span[1]), int(span[2])
    if not begin < end <= len(names):
        raise ConfigError(
            f"sampling.blocks: {block!r} is no range of the {len(names)} systems of the data, expected begin:end with "
            f"0 <= begin < end <= {len(names)}"
        )
    return list(range(begin, end))
