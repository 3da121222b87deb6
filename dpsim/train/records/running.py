"""Running means of losses and errors, and the time that the parts of a step take."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

from dpsim.train.loss import Term

log = logging.getLogger("dpsim.train")

WAITING = "waiting for data"
"""Part of a step in which there is nothing to compute with yet."""
EXCHANGE = "other ranks"
"""Part of a step in which gradients are added up, after waiting for the slowest process."""
_ORDER = (WAITING, "forward", "backward", EXCHANGE, "optimizer")
MUCH, NOTICED = 0.1, 10.0
"""Share of the time, and seconds, of waiting that are worth a warning."""


class Running:
    """Sums of terms over many batches, as plain numbers."""

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.sums: dict[str, tuple[float, int]] = {name: (t, n) for name, (t, n) in (sums or {}).items()}

    @classmethod
    def joined(cls, found: Sequence[Running]) -> Running:
        """Sums of several as one."""
        total = cls(found[0].sums)
        for one in found[1:]:
            for name, (value, count) in one.sums.items():
                total.add_value(name, value, count)
        return total

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
    """Seconds spent in the named parts of a step, and by threads beside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ahead: dict[str, float] = {}
        self.total: dict[str, float] = {}
        self.steps = 0
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin a part here; time before does not count."""
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the part `name` here and begin the next."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self.total[name] = self.total.get(name, 0.0) + now - self._last
        self._last = now

    def add_ahead(self, name: str, seconds: float) -> None:
        """Count time that another thread took meanwhile."""
        self.ahead[name] = self.ahead.get(name, 0.0) + seconds

    def split(self) -> str:
        """Milliseconds a step of each part, and begin anew."""
        parts, ahead = self._text(self.seconds), self._text(self.ahead)
        self.seconds, self.ahead, self.steps = {}, {}, 0
        return f"{parts}; meanwhile, for steps to come: {ahead}" if ahead else parts

    def shares(self) -> dict[str, float]:
        """Share of the whole time of each part."""
        whole = sum(self.total.values())
        return {name: seconds / whole for name, seconds in _ordered(self.total).items()} if whole else {}

    def log_shares(self) -> None:
        """Log where the time went; a warning if steps waited for data."""
        shares = self.shares()
        if not shares:
            return
        log.info("time: %s", ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
        waited = shares.get(WAITING, 0.0)
        if waited > MUCH and self.total[WAITING] > NOTICED:
            log.warning(
                "steps waited for data %.0f %% of the time: frames are read or their neighbours found more slowly than "
                "steps are made; faster storage, more memory, or fewer and larger files help",
                100 * waited,
            )

    def _text(self, seconds: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {1e3 * s / max(self.steps, 1):.1f}" for name, s in _ordered(seconds).items())


def _ordered(seconds: Mapping[str, float]) -> dict[str, float]:
    """In the order of a step; other parts behind."""
    first = {name: seconds[name] for name in _ORDER if name in seconds}
    return {**first, **seconds}
