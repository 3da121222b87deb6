"""Running means of losses and errors, and the time that the parts of a step take."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from dpsim.train.loss import Term


class Running:
    """Sums of terms over many batches, as plain numbers."""

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.sums: dict[str, tuple[float, int]] = {name: (t, n) for name, (t, n) in (sums or {}).items()}

    def add(self, terms: Mapping[str, Term], prefix: str = "") -> None:
        """Add the terms of a batch, under their names after `prefix`."""
        for name, term in terms.items():
            self.add_value(prefix + name, term.total.item(), term.size)

    def add_value(self, name: str, total: float, count: int = 1) -> None:
        """Add `count` values that sum to `total`."""
        before, number = self.sums.get(name, (0.0, 0))
        self.sums[name] = (before + total, number + count)

    def mean(self, name: str) -> float | None:
        """Mean so far; None if nothing was added under this name."""
        total, number = self.sums.get(name, (0.0, 0))
        return total / number if number else None

    def root(self, name: str) -> float | None:
        """Square root of the mean."""
        mean = self.mean(name)
        return None if mean is None else math.sqrt(mean)

    def clear(self) -> None:
        """Forget everything."""
        self.sums.clear()


class Clock:
    """Seconds spent in the named parts of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps = 0
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin a part here; time before does not count."""
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the part `name` here and begin the next."""
        now = time.perf_counter()
        self.add(name, now - self._last)
        self._last = now

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def split(self) -> str:
        """Milliseconds a step of each part, and begin anew."""
        parts = ", ".join(f"{name} {1e3 * s / max(self.steps, 1):.1f}" for name, s in self.seconds.items())
        self.seconds, self.steps = {}, 0
        return parts
