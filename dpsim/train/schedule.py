"""Learning rate and weights of the loss as functions of the step (spec common.md §12, §13)."""

from __future__ import annotations

import math

from dpsim.train.config import CosineRate, ExponentialRate


class LearningRate:
    """Learning rate at each step of a training.

    Parameters
    ----------
    steps
        Total number of steps.
    """

    def __init__(self, config: ExponentialRate | CosineRate, steps: int) -> None:
        self.config = config
        self.warmup = config.n_warmup(steps)
        self.decay = steps - self.warmup

    def __call__(self, step: int) -> float:
        """Learning rate at the 0-based `step`."""
        start = self.config.start
        if step < self.warmup:
            first = self.config.warmup_start_factor * start
            return first + (start - first) * step / self.warmup
        after = step - self.warmup
        return (
            _cosine(self.config, after, self.decay)
            if self.config.type == "cosine"
            else _exp(self.config, after, self.decay)
        )

    def fraction(self, step: int) -> float:
        """Learning rate over its start value: what the weights of the loss follow."""
        return self(step) / self.config.start


def _exp(config: ExponentialRate, step: int, total: int) -> float:
    every, rate = config.decay_steps, config.decay_rate
    if rate is None:
        if every >= total:
            every = 100 if total // 10 > 100 else total // 100 + 1
        rate = (max(config.final, 1e-10) / config.start) ** (every / total) if total else 1.0
    times = step / every if config.smooth else step // every
    return max(config.start * rate**times, config.final)


def _cosine(config: CosineRate, step: int, total: int) -> float:
    if step >= total:
        return config.final
    return config.final + (config.start - config.final) / 2 * (1 + math.cos(math.pi * step / total))


def prefactor(pair: tuple[float, float], fraction: float) -> float:
    """Weight of a loss term from its [start, limit] and the learning rate's fraction of its start value."""
    start, limit = pair
    return limit + (start - limit) * fraction
