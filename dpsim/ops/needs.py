"""Which gradients a backward formula is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def remember(ctx: Any, inputs: Sequence[Any]) -> None:
    """Keep, when an operator is called with `inputs`, what `needed` asks for."""
    counts = [len(value) if isinstance(value, list) else int(isinstance(value, Tensor)) for value in inputs]
    ends = list(itertools.accumulate(counts))
    ctx.edges_of = [range(end - count, end) for count, end in zip(counts, ends, strict=True)]


def needed(ctx: Any, *inputs: int) -> bool:
    """Whether a gradient with respect to any of these inputs will be used in the differentiation that is under way.

    `needs_input_grad` of a formula in Python says whether an input has a gradient at all: parameters do while forces
    are made from an energy that is to be trained, where nothing is done with it.

    Parameters
    ----------
    inputs
        Positions among the arguments of the operator: tensors, or lists of tensors.
    """
    return any(_goes_on(ctx.next_functions[edge][0]) for position in inputs for edge in ctx.edges_of[position])


def _goes_on(node: Any) -> bool:
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # it does not tell of leaves
        return True


def parameter(tensor: Tensor) -> Tensor:
    """A view, so that the engine can tell whether a derivative by it is wanted: it cannot of leaves."""
    return tensor.view_as(tensor)
