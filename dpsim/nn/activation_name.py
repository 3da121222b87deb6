"""Names of activation functions, readable without torch: declarations are checked with it."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import AfterValidator

from dpsim.errors import ConfigError

PLAIN: Final = ("tanh", "silu", "relu", "relu6", "sigmoid", "softplus", "gelu", "gelu_tf", "none", "linear")
"""Activations without a parameter."""


def read_activation(name: str) -> tuple[str, float]:
    """Canonical name and threshold (0 where there is none) of an activation, case-insensitive.

    ``silut:10`` gives the threshold after the colon; ``silut`` alone means 3.

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
            expected = "expected a positive number below 700 as in 'silut:10'"
            raise ConfigError(f"activation {name!r}: {argument!r} is no threshold, {expected}")
        return "silut", threshold
    if key not in PLAIN or argument:
        raise ConfigError(f"activation {name!r} is unknown: use one of {', '.join([*PLAIN, 'silut:T'])}")
    return key, 0.0


def _check(name: str) -> str:
    try:
        read_activation(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


ActivationName = Annotated[str, AfterValidator(_check)]
"""Name of an activation function, for example ``tanh`` or ``silut:10``."""
