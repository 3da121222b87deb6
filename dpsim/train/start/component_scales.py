"""Scales of descriptors whose every component has its own: loc_frame (spec classic.md §6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dpsim.descriptors.described import Described
from dpsim.descriptors.loc_frame.descriptor import LocFrame
from dpsim.model.base import Model
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph

_SMALLEST = 0.01  # deviations below are taken as this, part of the definition


@torch.no_grad()
def set_component_scales(model: Model, graphs: Iterable[FrameGraph]) -> list[str]:
    """Set mean and standard deviation of each component, by the type of the centre, where a descriptor has such.

    Parameters
    ----------
    graphs
        Frames that they are taken from; not read if there is no such descriptor. Types that do not occur keep 0 and 1.

    Returns
    -------
    list of str
        Paths of the descriptors within the model.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LocFrame)}
    if not modules:
        return []
    sums = {name: torch.zeros(3, *module.mean.shape, dtype=torch.float64) for name, module in modules.items()}
    handles = [module.register_forward_hook(_adder(sums[name])) for name, module in modules.items()]
    for module in modules.values():
        module.mean.zero_()
        module.stddev.fill_(1.0)
    try:
        for graph in graphs:
            model(collate([graph]).to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in modules.items():
        count, total, squares = sums[name]
        mean = total / count.clamp(min=1.0)
        spread = (squares / count.clamp(min=1.0) - mean**2).clamp(min=0.0).sqrt().clamp(min=_SMALLEST)
        module.mean.copy_(mean)
        module.stddev.copy_(torch.where(count > 0, spread, 1.0))
    return list(modules)


def _adder(sums: Tensor) -> Callable[[Any, tuple[Neighborhood], Described], None]:
    """Adds up number, sum and squares of the components of a descriptor, each time that it is evaluated."""

    def add(module: Any, inputs: tuple[Neighborhood], described: Described) -> None:
        (hood,) = inputs
        values = described.features.to("cpu", torch.float64)
        types = hood.types.to("cpu")
        for total, part in zip(sums, (torch.ones_like(values), values, values**2), strict=True):
            total.index_add_(0, types, part)

    return add
