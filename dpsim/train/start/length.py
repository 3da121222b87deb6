"""How many steps a number of epochs is (spec common.md §15)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.train.batches.drawing import drawing
from dpsim.train.batches.frames import DataSource, FrameSet
from dpsim.train.batches.sampler import filling, in_order
from dpsim.train.config import TrainConfig
from dpsim.train.settings.data import size_of
from dpsim.train.settings.heads import head_config

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
    steps = steps_of_epochs(config.epochs, steps_of_one_epoch(config, frames, workers))
    return _lasting(config, steps, f"{config.epochs:g}", epochs=None)


def with_steps_of_heads(config: TrainConfig, frames: Mapping[str, FrameSet], workers: int = 1) -> TrainConfig:
    """Settings with the number of steps, and the shares of the heads, that the epochs of the heads mean.

    Parameters and errors as of `with_steps`; frames by head.
    """
    epochs = config.epochs_of_heads
    if not epochs:
        return config
    assert config.heads is not None
    of_head = {name: steps_of_one_epoch(head_config(config, name), frames[name], workers) for name in epochs}
    parts = {name: number * of_head[name] for name, number in epochs.items()}
    steps, whole = max(math.ceil(sum(parts.values()) - 1e-9), 1), sum(parts.values())
    heads = {
        # rounded, so that more epochs of all heads leave the shares as they are
        name: head.model_copy(update={"epochs": None, "probability": round(parts[name] / whole, 12)})
        for name, head in config.heads.items()
    }
    return _lasting(config, steps, ", ".join(f"{number:g} of {name}" for name, number in epochs.items()), heads=heads)


def _lasting(config: TrainConfig, steps: int, said: str, **changes: object) -> TrainConfig:
    log.info("epochs: %s are %d steps", said, steps)
    try:
        return TrainConfig.model_validate({**_fields(config), **changes, "steps": steps})
    except ValidationError as error:
        raise ConfigError(f"epochs: {said} are {steps} steps: {first_problem(error)}") from None


def steps_on(config: TrainConfig, data: DataSource | Mapping[str, DataSource], workers: int = 1) -> int:
    """Steps of a training on these data by so many processes; they are opened only if epochs are to be counted."""
    if config.steps is not None:
        return config.steps
    if not isinstance(data, Mapping):
        return with_steps(config, _opened(config, data), workers).total_steps
    frames = {name: _opened(head_config(config, name), data[name]) for name in config.epochs_of_heads}
    return with_steps_of_heads(config, frames, workers).total_steps


def _opened(config: TrainConfig, data: DataSource) -> FrameSet:
    return FrameSet(data, None, only=config.frame_filter, size=size_of(config.batch_size), what="training")


def steps_of_one_epoch(config: TrainConfig, frames: FrameSet, workers: int = 1) -> int:
    """Steps until every system was gone through once, on average, by so many processes."""
    plan = drawing(config, frames)
    drawn = 1.0 if plan.sizes is not None else frames_per_batch(config, frames)
    draws = epoch_draws(plan.batches, plan.probabilities)
    return math.ceil(draws / (drawn * config.accumulate * workers) - 1e-9)


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


def steps_of_epochs(epochs: float, steps_of_one: int) -> int:
    """Steps of so many epochs, at least one."""
    return max(math.ceil(epochs * steps_of_one - 1e-9), 1)


def _fields(config: TrainConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in TrainConfig.model_fields}
