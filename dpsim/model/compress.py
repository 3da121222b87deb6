"""Compression: tables in the place of embedding networks that are given one number (spec classic.md §7)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dpsim.descriptors.hybrid.config import HybridConfig
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.descriptors.table_grid import TableGrid
from dpsim.descriptors.tabulated import TabulatedNetwork, scalar_networks
from dpsim.errors import ModelError
from dpsim.model.base import Model
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.model.potential import PotentialModel
from dpsim.model.standard import ModelConfig
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import frame_graph

TOLERANCE = 1e-5
"""Largest difference of outputs and forces from those of the model before, relative to the largest of them."""


class Compressed(NamedTuple):
    """A compressed model, and how well it does."""

    model: Model
    tables: dict[str, TableGrid]
    """Grid of each table by the path of its module."""
    left: dict[str, str]
    """Descriptors that stay as they are, by path, and why."""
    output_error: float
    """Largest difference of an atomic output from the model before, relative to the largest output."""
    force_error: float
    """The same of forces; 0 where the model predicts no energy."""


class _Walk:
    """Goes through the settings and modules of a model side by side."""

    def __init__(self, min_distance: float, step: float, extrapolate: float) -> None:
        self.min_distance, self.step, self.extrapolate = min_distance, step, extrapolate
        self.tables: dict[str, TableGrid] = {}
        self.left: dict[str, str] = {}

    def model(self, config: Any, model: Any, path: str) -> Any:
        """Settings of the compressed model."""
        if isinstance(config, ModelConfig):
            descriptor = self.descriptor(config.descriptor, model.descriptor, f"{path}descriptor")
            return config.model_copy(update={"descriptor": descriptor})
        if isinstance(config, LinearModelConfig):
            parts = enumerate(zip(config.models, model.models, strict=True))
            models = tuple(self.model(part, module, f"{path}models.{k}.") for k, (part, module) in parts)
            return config.model_copy(update={"models": models})
        if isinstance(config, ZBLModelConfig):
            learned = self.model(config.model, model.models[0], f"{path}models.0.")
            return config.model_copy(update={"model": learned})
        if isinstance(config, SpinModelConfig):
            return config.model_copy(update={"backbone": self.model(config.backbone, model.backbone, "backbone.")})
        assert isinstance(config, PairTableConfig)
        return config

    def descriptor(self, config: Any, module: nn.Module, path: str) -> Any:
        """Settings of the compressed descriptor; those given where nothing can be tabulated."""
        if isinstance(config, HybridConfig):
            members = [module.get_submodule(f"members.{k}") for k in range(len(config.list))]
            parts = enumerate(zip(config.list, members, strict=True))
            return config.model_copy(
                update={"list": tuple(self.descriptor(c, m, f"{path}.members.{k}") for k, (c, m) in parts)}
            )
        if isinstance(config, CompressibleSettings) and config.compressed:
            raise ModelError(f"{path} is compressed already: give the model that it was made from")
        networks = scalar_networks(module, self.min_distance) if isinstance(config, CompressibleSettings) else ()
        if not networks:
            self.left[path] = _reason(config)
            return config
        grids = []
        for found in networks:
            step = 10 * self.step if found.both_sides else self.step
            grid = TableGrid.over(found.lower, found.upper, step, self.extrapolate, both_sides=found.both_sides)
            self.tables[f"{path}.{found.path}"] = grid
            grids.append(grid)
        return config.model_copy(update={"compressed": tuple(grids)})


def _reason(config: Any) -> str:
    kind: str = config.type
    if isinstance(config, CompressibleSettings):
        return f"{kind} is given types beside the distance (tebd_input_mode: concat); only strip can be tabulated"
    return f"{kind} has no network that is given one number"


def compress(model: Model, min_distance: float, *, step: float = 0.01, extrapolate: float = 5.0) -> Compressed:
    """Replace embedding networks by tables, and check the result against the model on random structures.

    Parameters
    ----------
    min_distance
        Å; the smallest distance between atoms that is to be met. Below, tables are coarser, and far below
        straight lines.
    step
        Width of the intervals, in units of the scaled environment; ten times this for products of directions.
    extrapolate
        How many times as far the coarse part of the tables goes, with intervals ten times as wide.

    Raises
    ------
    ModelError
        If a number makes no sense, the model has nothing to tabulate, or the tables are not exact enough.
    """
    for name, value, smallest in (("min_distance", min_distance, 0.0), ("step", step, 0.0)):
        if not smallest < value < np.inf:
            raise ModelError(f"{name} is {value}, expected a number above {smallest:g}")
    if not 1.0 <= extrapolate < np.inf:
        raise ModelError(f"extrapolate is {extrapolate}, expected a number of at least 1")
    walk = _Walk(min_distance, step, extrapolate)
    config = walk.model(model.config, model, "")
    if not walk.tables:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in walk.left.items())
        raise ModelError(f"the model cannot be compressed ({reasons or 'it has no networks'})")
    compressed: Model = config.build(0).to(model.device)
    missing, unknown = compressed.load_state_dict(model.state_dict(), strict=False)
    assert {name.removesuffix(".table") for name in missing} == set(walk.tables), missing
    assert all(name.startswith(tuple(walk.tables)) for name in unknown), unknown
    for path in walk.tables:
        table = compressed.get_submodule(path)
        assert isinstance(table, TabulatedNetwork)
        table.fill(model.get_submodule(path))
    errors = _errors(model.with_precision("float64"), compressed.with_precision("float64"), min_distance, walk)
    return Compressed(compressed, walk.tables, walk.left, *errors)


def _errors(before: Model, after: Model, min_distance: float, walk: _Walk) -> tuple[float, float]:
    """Errors of outputs and forces.

    Raises
    ------
    ModelError
        If they are above the tolerance.
    """
    for path, module in after.named_modules():  # float32 tables are rounded; what is asked here is the grid
        if isinstance(module, TabulatedNetwork):
            module.fill(before.get_submodule(path))
    found = [0.0, 0.0]
    for path, part in before.named_modules():
        if isinstance(part, PotentialModel):
            other = after.get_submodule(path)
            assert isinstance(other, PotentialModel)
            found = [max(a, b) for a, b in zip(found, _compared(part, other, min_distance), strict=True)]
    for what, error in zip(("outputs", "forces"), found, strict=True):
        if not error <= TOLERANCE:
            raise ModelError(
                f"with tables of step {walk.step:g} {what} differ by {error:.1e} of the largest, "
                f"allowed {TOLERANCE:.0e}: use a smaller step"
            )
    return found[0], found[1]


def _compared(before: PotentialModel, after: PotentialModel, min_distance: float) -> tuple[float, float]:
    hood, n_frames = _samples(before, min_distance)
    if before.output != "energy":
        with torch.no_grad():
            return _difference(after(hood), before(hood)), 0.0
    a, b = (model.derivatives(hood, n_frames) for model in (after, before))
    return _difference(a.atomic_energy, b.atomic_energy), _difference(a.forces, b.forces)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    largest = max(float(expected.abs().max()), 1e-3)
    return float((found - expected).abs().max()) / largest


def _samples(model: PotentialModel, min_distance: float) -> tuple[Neighborhood, int]:
    """Random structures from dense to thin, no two atoms closer than `min_distance`, in one neighbourhood."""
    rng, frames = np.random.default_rng(0), []
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for spacing in (1.05, 1.2, 1.5, 2.0, 3.0):
        jitter = (spacing - 1.0) / (2 * np.sqrt(3))
        positions = (grid * spacing + rng.uniform(-jitter, jitter, grid.shape)) * min_distance
        types = rng.integers(0, model.n_row_types, len(positions))
        frames.append(frame_graph(positions, types, None, model.neighbors))
    hood, inputs = collate(frames).to(model.device), model.inputs
    new = hood.displacements
    return hood._replace(
        fparam=new.new_zeros(len(frames), inputs.n_fparam) if inputs.n_fparam else None,
        aparam=new.new_zeros(hood.n_atoms, inputs.n_aparam) if inputs.n_aparam else None,
        charge_spin=new.new_tensor([[0.0, 1.0]] * len(frames)) if inputs.charge_spin else None,
    ), len(frames)
