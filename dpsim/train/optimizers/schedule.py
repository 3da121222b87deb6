"""Learning rate and weights of the loss as functions of the step (spec common.md §12, §13)."""

from __future__ import annotations

import math

from dpsim.train.settings.learning_rate import AnyRate, CosineRate, ExponentialRate, StableRate


class LearningRate:
    """Learning rate at each step of a training.

    Parameters
    ----------
    steps
        Total number of steps.
    workers
        Processes that train together, for ``scale_by_worker``.
    """

    def __init__(self, config: AnyRate, steps: int, workers: int = 1) -> None:
        self.config = config
        self.warmup = config.n_warmup(steps)
        self.decay = steps - self.warmup
        self.scale = worker_scale(config.scale_by_worker, workers)
        self._steps = steps

    def __call__(self, step: int) -> float:
        """Learning rate at the 0-based `step`."""
        return self.scale * self._unscaled(step)

    def fraction(self, step: int) -> float:
        """Learning rate over its start value: what the weights of the loss follow."""
        return self._unscaled(step) / self.config.start

    def _unscaled(self, step: int) -> float:
        config = self.config
        if step < self.warmup:
            first = config.warmup_start_factor * config.start
            return first + (config.start - first) * step / self.warmup
        after = step - self.warmup
        if isinstance(config, ExponentialRate):
            return _exp(config, after, self.decay)
        if isinstance(config, StableRate):
            length = min(max(int(config.decay_phase_ratio * self._steps), 1), max(self.decay, 1))
            return _falling(config.decay_type, config, after - (self.decay - length), length)
        return _cosine(config, after, self.decay)


def worker_scale(how: str, workers: int) -> float:
    """Factor of the learning rate for a number of processes: ``linear``, ``sqrt`` or ``none``."""
    return {"linear": float(workers), "sqrt": math.sqrt(workers), "none": 1.0}[how]


def _exp(config: ExponentialRate, step: int, total: int) -> float:
    every, rate = config.decay_steps, config.decay_rate
    if rate is None:
        if every >= total:
            every = 100 if total // 10 > 100 else total // 100 + 1
        rate = (max(config.final, 1e-10) / config.start) ** (every / total) if total else 1.0
    times = step / every if config.smooth else step // every
    return max(config.start * rate**times, config.final)


def _cosine(config: CosineRate | StableRate, step: int, total: int) -> float:
    if step >= total:
        return config.final
    return config.final + (config.start - config.final) / 2 * (1 + math.cos(math.pi * step / total))


def _falling(how: str, config: StableRate, step: int, total: int) -> float:
    """`start` before step 0, then the way to the final rate, which is reached at step `total`."""
    if step <= 0:
        return config.start
    if step >= total:
        return config.final
    if how == "cosine":
        return _cosine(config, step, total)
    x = step / total
    if how == "linear":
        return config.start + (config.final - config.start) * x
    return 1 / (x / config.final + (1 - x) / config.start)


def prefactor(pair: tuple[float, float], fraction: float) -> float:
    """Weight of a loss term from its [start, limit] and the learning rate's fraction of its start value."""
    start, limit = pair
    return limit + (start - limit) * fraction
