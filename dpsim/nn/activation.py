"""Activation functions by name (spec common.md §7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dpsim.errors import ConfigError


class Activation(NamedTuple):
    """An activation: how to evaluate it, and how the fused kernels know it."""

    name: str
    function: Callable[[Tensor], Tensor]
    code: int | None = None
    """Number under which the fused kernels know it; None if they do not."""
    threshold: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def silut(x: Tensor, threshold: float) -> Tensor:
    """Silu below `threshold`, above it a tanh that continues value and slope."""
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    slope = sigmoid + threshold * sigmoid * (1.0 - sigmoid)
    tail = torch.tanh(slope * (x - threshold)) + threshold * sigmoid
    return torch.where(x < threshold, functional.silu(x), tail)


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


_PLAIN: dict[str, Activation] = {
    "tanh": Activation("tanh", torch.tanh, code=2),
    "silu": Activation("silu", functional.silu, code=0),
    "relu": Activation("relu", functional.relu),
    "relu6": Activation("relu6", functional.relu6),
    "sigmoid": Activation("sigmoid", torch.sigmoid),
    "softplus": Activation("softplus", functional.softplus),
    "gelu": Activation("gelu", _gelu),
    "gelu_tf": Activation("gelu_tf", _gelu),
    "none": Activation("none", lambda x: x),
    "linear": Activation("linear", lambda x: x),
}


def activation(name: str) -> Activation:
    """Find an activation by name, case-insensitive; ``silut:10`` gives the threshold after the colon.

    Raises
    ------
    ConfigError
        If the name is unknown or its threshold is no positive number.
    """
    key, _, argument = name.strip().lower().partition(":")
    if key in ("silut", "custom_silu"):
        try:
            threshold = float(argument) if argument else 3.0
        except ValueError:
            threshold = math.nan
        if not (0 < threshold < 700):
            raise ConfigError(
                f"activation {name!r}: {argument!r} is no threshold, expected a positive number as in 'silut:10'"
            )
        return Activation(name, lambda x: silut(x, threshold), code=1, threshold=threshold)
    if key not in _PLAIN or argument:
        raise ConfigError(f"activation {name!r} is unknown: use one of {', '.join([*_PLAIN, 'silut:T'])}")
    return _PLAIN[key]
