"""Settings of what enters a step: how many frames, from which systems, and which frames never. No torch here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from dpsim.config import Config, Force, Length

Rule = Literal["frames", "auto", "max", "filter", "edges", "systems"]
_SIZE = re.compile(r"(auto|max|filter|edges):0*([1-9]\d*)")


class Size(NamedTuple):
    """What makes a batch full."""

    rule: Rule
    number: int
    """Of frames, atoms or edges; of one number for each system, the largest."""


def _batch_size(value: Any) -> Any:
    if value == "auto":
        return "auto:32"
    if isinstance(value, list | tuple):
        if not value or not all(map(_is_count, value)):
            raise ValueError(f"{list(value)!r} is no batch size: write a number of frames for each system")
        return tuple(value)
    if not _is_count(value) and not (isinstance(value, str) and _SIZE.fullmatch(value)):
        raise ValueError(
            f"{value!r} is no batch size: write a number of frames, auto:N for at least or max:N for at most N atoms, "
            "filter:N to leave larger frames out as well, or edges:N for at most N pairs of neighbours"
        )
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


BatchSize = Annotated[int | str | tuple[int, ...], BeforeValidator(_batch_size)]
"""Frames in a batch, ``auto:N``, ``max:N``, ``filter:N`` or ``edges:N``; or a number of frames for each system."""


def size_of(value: int | str | tuple[int, ...]) -> Size:
    """What a checked `BatchSize` means."""
    if isinstance(value, int):
        return Size("frames", value)
    if isinstance(value, tuple):
        return Size("systems", max(value))
    rule, _, number = value.partition(":")
    return Size(rule, int(number))  # type: ignore[arg-type]


class SystemSampling(Config):
    """How often each system (folder of the data) is drawn from; of one system, every frame is seen equally often."""

    blocks: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Share of each block of systems: ``begin:end``, counted from 0 in the order of the data, or a pattern of names
    such as ``water/*``. Shares are divided by their sum; in a block, every frame is seen equally often."""
    weights: tuple[float, ...] | None = None
    """Instead of blocks, the probability of each system in the order of the data; those with a negative number share
    what is left in proportion to their frames."""

    @model_validator(mode="after")
    def _check(self) -> SystemSampling:
        if (self.blocks is None) == (self.weights is None):
            raise ValueError("give either blocks or weights")
        if self.blocks is not None and not sum(self.blocks.values()):
            raise ValueError(f"blocks: {self.blocks}: at least one share must be above zero")
        if self.weights is not None:
            given = sum(weight for weight in self.weights if weight >= 0)
            rest = any(weight < 0 for weight in self.weights)
            if given > 1 + 1e-8 or (not rest and given < 1 - 1e-8):
                expected = "at most 1" if rest else "1, or a negative number for systems that share the rest"
                raise ValueError(f"weights sum to {given:g}, expected {expected}")
        return self


Sampling = Literal["frames", "systems"] | SystemSampling


class FrameFilter(Config):
    """Frames that are left out of training and validation data; how many is told by the log and by metrics.json."""

    min_distance: Length | None = None
    """Frames with two atoms nearer to each other are left out."""
    max_force: Annotated[Force, Field(gt=0)] | None = None
    """Frames with a longer force on an atom are left out; those without forces stay."""

    @model_validator(mode="after")
    def _check(self) -> FrameFilter:
        if self.min_distance is None and self.max_force is None:
            raise ValueError("give min_distance, max_force or both")
        return self
