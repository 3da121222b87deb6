"""Between which frames batches choose, as batch size and shares of systems ask for (spec common.md §15)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dpsim.errors import ConfigError
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.system_shares import system_probabilities
from dpsim.train.config import TrainConfig
from dpsim.train.settings.data import Sampling, SystemSampling


class Drawing(NamedTuple):
    """The first arguments of a `dpsim.train.batches.sampler.Sampler`."""

    pools: list[np.ndarray]
    """Frame indices; each is gone through before it begins anew."""
    probabilities: list[float] | None = None
    """Of each pool to be chosen; None: all the same."""
    sizes: list[int] | None = None
    """Frames of a batch, if that is of one pool."""

    @property
    def batches(self) -> list[int]:
        """Batches with which each pool is gone through once; frames where batches mix pools."""
        if self.sizes is None:
            return [len(pool) for pool in self.pools]
        return [-(-len(pool) // size) for pool, size in zip(self.pools, self.sizes, strict=True)]


def drawing(config: TrainConfig, frames: FrameSet) -> Drawing:
    """Pools of frames of a training.

    Raises
    ------
    ConfigError
        If batch size or shares do not fit the systems of the data.
    """
    if isinstance(config.batch_size, tuple):
        return _by_system(config.batch_size, config.sampling, frames)
    return Drawing(frames.pools(config.sampling), frames.probabilities(config.sampling))


def _by_system(sizes: tuple[int, ...], sampling: Sampling, frames: FrameSet) -> Drawing:
    pools, names = frames.systems(), [system.name for system in frames.dataset.systems]
    if len(sizes) != len(pools):
        raise ConfigError(
            f"batch_size has {len(sizes)} numbers, but the data hold {len(pools)} systems: give one for each, or one "
            "for all"
        )
    whole = Drawing(pools, None, list(sizes))
    chances = np.array(whole.batches, dtype=np.float64)
    if isinstance(sampling, SystemSampling):
        chances = system_probabilities(sampling, names, whole.batches)
    elif sampling == "systems":
        chances = (chances > 0).astype(np.float64)
    chosen = np.flatnonzero(chances)
    probabilities = [float(p) for p in chances[chosen] / chances.sum()]
    return Drawing([pools[k] for k in chosen], probabilities, [sizes[k] for k in chosen])
