"""How many steps a number of epochs is (spec common.md §15)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.train.config import TrainConfig
from dpsim.train.data_config import size_of
from dpsim.train.drawing import drawing
from dpsim.train.frames import DataSource, FrameSet
from dpsim.train.sampler import filling, in_order

log = logging.getLogger("dpsim.train")


def with_steps(config: TrainConfig, frames: FrameSet, workers: int = 1) -> TrainConfig:
    """Settings with the number of steps that ``epochs`` means for these frames; as they are if they have one.

    Parameters
    ----------
    workers
        Processes that train together: each makes a batch of every step.

    Raises
    ------
    ConfigError
        If another setting does not go with that number.
    """
    if config.epochs is None:
        return config
    plan = drawing(config, frames)
    draws = epoch_draws(plan.batches, plan.probabilities)
    drawn = 1.0 if plan.sizes is not None else frames_per_batch(config, frames)
    steps = steps_of_epochs(config.epochs, draws, drawn * config.accumulate * workers)
    log.info("epochs: %g are %d steps", config.epochs, steps)
    try:
        return TrainConfig.model_validate({**_fields(config), "steps": steps, "epochs": None})
    except ValidationError as error:
        raise ConfigError(f"epochs: {config.epochs:g} are {steps} steps: {first_problem(error)}") from None


def steps_on(config: TrainConfig, data: DataSource, workers: int = 1) -> int:
    """Steps of a training on these data by so many processes; they are opened only if epochs are to be counted."""
    if config.epochs is None:
        return config.total_steps
    frames = FrameSet(data, None, only=config.frame_filter, size=size_of(config.batch_size), what="training")
    return with_steps(config, frames, workers).total_steps


def epoch_draws(sizes: Sequence[int], probabilities: Sequence[float] | None = None) -> int:
    """Draws until every pool is gone through once, on average, even the least favoured.

    Parameters
    ----------
    sizes
        Of each pool: its frames, or its batches where a draw is one of these.
    probabilities
        Of each pool to be drawn from; None: all the same. Pools that are never drawn from do not count.
    """
    chance = probabilities or [1 / len(sizes)] * len(sizes)
    return math.ceil(max(size / p for size, p in zip(sizes, chance, strict=True) if p > 0) - 1e-9)


def frames_per_batch(config: TrainConfig, frames: FrameSet) -> float:
    """Frames of a batch; their mean over the data where a batch is a number of atoms."""
    size = size_of(config.batch_size)
    if size.rule == "frames":
        return min(size.number, len(frames))
    assert size.rule != "edges"  # refused by the settings
    full = filling(size, frames.n_atoms, frames.n_atoms)
    return len(frames) / len(list(in_order(range(len(frames)), n_atoms=frames.n_atoms, **full)))


def steps_of_epochs(epochs: float, draws: int, frames_per_step: float) -> int:
    """Steps that make `epochs` times `draws` draws, at least one."""
    return max(math.ceil(epochs * math.ceil(draws / frames_per_step - 1e-9) - 1e-9), 1)


def _fields(config: TrainConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in TrainConfig.model_fields}
