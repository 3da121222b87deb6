"""Tells the log and the caller how training advances."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from dpsim.train.records.running import Clock

log = logging.getLogger("dpsim.train")


class Progress(Protocol):
    """Called while training advances."""

    def __call__(self, done: int, total: int, message: str, **values: float) -> None: ...


def silent(done: int, total: int, message: str, **values: float) -> None:
    """Tell nobody."""


class Reporter:
    """Calls the progress function about once a second, and logs the rows of the curve.

    Parameters
    ----------
    step, steps
        Where this process begins, and where it ends.
    """

    INTERVAL = 1.0
    """Seconds between two calls of the progress function."""

    def __init__(self, progress: Progress, step: int, steps: int) -> None:
        self._progress, self._first, self._steps = progress, step, steps
        self._begin, self._last = time.perf_counter(), 0.0
        self._values: dict[str, float] = {}

    def after_step(self, step: int, loss: float) -> None:
        """Call the progress function if it is time."""
        now = time.perf_counter()
        if now - self._last < self.INTERVAL and step < self._steps:
            return
        self._last = now
        rate = (step - self._first) / max(now - self._begin, 1e-9)
        values = {**self._values, "loss": loss, "steps_per_second": rate, "seconds_left": (self._steps - step) / rate}
        self._progress(step, self._steps, f"step {step}/{self._steps}", **values)

    def after_row(self, row: Mapping[str, float | int], clock: Clock) -> None:
        """Log a row of the curve, with the time that the parts of a step took."""
        self._values.update({name: float(value) for name, value in row.items() if name not in ("step", "loss")})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        log.info("step %d: %s; ms a step: %s", row["step"], numbers, clock.split())
