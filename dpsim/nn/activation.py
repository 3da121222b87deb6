"""Activation functions by name (spec common.md §7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dpsim import ops
from dpsim.nn.activation_name import read_activation


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


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": functional.silu,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "gelu": _gelu,
    "gelu_tf": _gelu,
    "none": lambda x: x,
    "linear": lambda x: x,
}


def activation(name: str) -> Activation:
    """Find an activation by name, case-insensitive; ``silut:10`` gives the threshold after the colon.

    Raises
    ------
    ConfigError
        If the name is unknown or its threshold is no positive number.
    """
    key, threshold = read_activation(name)
    function = (lambda x: silut(x, threshold)) if key == "silut" else _FUNCTIONS[key]
    return Activation(name, function, code=ops.ACTIVATIONS.get(key), threshold=threshold)
