"""Output biases of elements that are given instead of fitted (spec common.md §11.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dpsim.errors import DpsimError
from dpsim.model.base import Model
from dpsim.train.settings.standard_model import ElementBias

BIASED = ("polarizability", "dos", "property")
"""Outputs other than energies whose models have a bias from the data."""


def given_bias(
    model: Model, preset: Mapping[str, ElementBias], error: type[DpsimError]
) -> dict[int, npt.NDArray[np.float64]]:
    """Values by type, flat, from those by element.

    Parameters
    ----------
    error
        What is raised.

    Raises
    ------
    DpsimError
        If the model has no such bias, does not know an element, or its values are of another number.
    """
    if not preset:
        return {}
    if model.output not in ("energy", *BIASED):
        raise error(f"model.preset_out_bias: the model predicts {model.output}, which has no output bias: leave it out")
    if model.output == "property" and not model.config.fitting.distinguish_types:
        raise error(
            "model.preset_out_bias: the property has one bias for all elements (distinguish_types: false), so that of "
            "an element cannot be given: leave it out"
        )
    size, found = math.prod(model.output_shape), {}
    for name, values in preset.items():
        if name not in model.type_map:
            raise error(f"model.preset_out_bias: {name!r} is not in the type map {list(model.type_map)}")
        flat = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if len(flat) != size:
            raise error(
                f"model.preset_out_bias.{name}: found {len(flat)} numbers, expected {size}: as many as the "
                f"{model.output} of an atom has"
            )
        found[model.type_map.index(name)] = flat
    return found
