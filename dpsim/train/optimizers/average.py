"""Exponential moving average of the parameters: what is validated and kept, while the parameters themselves move on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """``average ← d · average + (1 − d) · parameter`` after each step.

    The decay ``d`` grows from 0.1 as ``(1 + t) / (10 + t)`` until it is the one asked for, so that a short training
    does not stay near its initial parameters.

    Parameters
    ----------
    parameters
        By name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, step: int) -> None:
        """Take in the parameters after a step; the first is 1."""
        decay = min(self.decay, step / (9 + step))
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.values[name].lerp_(p, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the parameters are their averages; to the last bit, they are what they were thereafter."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._assign(self.values)
        try:
            yield
        finally:
            self._assign(kept)

    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from averages that a checkpoint kept."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, p in self.parameters.items():
            p.copy_(values[name])
