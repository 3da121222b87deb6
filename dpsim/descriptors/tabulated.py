"""Tables in the place of embedding networks that are given one number (spec classic.md §7).

In each interval a function is the quintic polynomial with its value, slope and curvature at both ends.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.descriptors.dpa1.block import NeighborEmbedding
from dpsim.descriptors.environment import Environment
from dpsim.descriptors.se_e2_a.descriptor import SeE2A
from dpsim.descriptors.se_e2_r.descriptor import SeE2R
from dpsim.descriptors.se_e3.descriptor import SeE3
from dpsim.descriptors.se_e3_tebd.block import ThreeBody
from dpsim.descriptors.table_grid import TableGrid
from dpsim.nn.linear import EmbeddingNetwork, ResidualLayer

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_CHUNK = 4096  # nodes that are evaluated at a time


class TabulatedNetwork(nn.Module):
    """Functions ``(M, n_out)`` of one number ``(M, 1)`` from a table."""

    table: Tensor
    grid: Tensor

    def __init__(self, grid: TableGrid, n_out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("table", torch.full((grid.n_intervals, 6, n_out), math.nan, dtype=dtype))
        self.register_buffer("grid", torch.tensor(grid.numbers, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, 1)`` to ``(M, n_out)``."""
        return ops.tabulate(x.squeeze(1), self.table, self.grid)

    def outer_sum(self, x: Tensor, rows: Tensor, ptr: Tensor, like: Tensor) -> Tensor:
        """See `EmbeddingNetwork.outer_sum`."""
        return ops.tabulate_sum(x, rows, self.table, self.grid, ptr, like)

    def fill(self, network: nn.Module) -> None:
        """Take the values of a network, whatever its layers are."""
        self.table.copy_(quintics(network, nodes(self.grid)))


def nodes(grid: Tensor) -> Tensor:
    """Ends ``(S + 1,)`` of all intervals, ascending."""
    start, lower, upper, end = grid[:4].tolist()
    parts = zip((start, lower, upper), (lower, upper, end), grid[4:].long().tolist(), strict=True)
    pieces = [torch.linspace(a, b, n + 1, dtype=torch.float64)[:-1] for a, b, n in parts]
    return torch.cat([*pieces, grid[3:4].cpu()])


def quintics(network: nn.Module, at: Tensor) -> Tensor:
    """Coefficients ``(S, 6, M)`` of the polynomials between nodes ``(S + 1,)``, constants first, in float64."""
    exact = copy.deepcopy(network).double().cpu().requires_grad_(False)
    chunks = torch.split(at, _CHUNK)  # type: ignore[no-untyped-call]
    parts = [_value_slope_curvature(exact, chunk) for chunk in chunks]
    y, d, c = (torch.cat(values) for values in zip(*parts, strict=True))
    h = at.diff().unsqueeze(1)
    rise = y[1:] - y[:-1]
    third = (20 * rise - (8 * d[1:] + 12 * d[:-1]) * h - (3 * c[:-1] - c[1:]) * h**2) / (2 * h**3)
    fourth = (-30 * rise + (14 * d[1:] + 16 * d[:-1]) * h + (3 * c[:-1] - 2 * c[1:]) * h**2) / (2 * h**4)
    fifth = (12 * rise - 6 * (d[1:] + d[:-1]) * h + (c[1:] - c[:-1]) * h**2) / (2 * h**5)
    return torch.stack([y[:-1], d[:-1], c[:-1] / 2, third, fourth, fifth], dim=1)


@torch.enable_grad()
def _value_slope_curvature(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value and two derivatives ``(n, M)`` of every output."""
    x = x.detach().requires_grad_()
    value: Tensor = network(x.unsqueeze(1))
    slope = _slope(value, x)
    return value.detach(), slope.detach(), _slope(slope, x).detach()


def _slope(y: Tensor, x: Tensor) -> Tensor:
    """Derivative ``(n, M)`` of every column of y by x (n,), when each row depends on its own x alone.

    The gradient by x is linear in the cotangent, so its derivative by that is what is asked for: all columns at once.
    """
    if not y.requires_grad:
        return torch.zeros_like(y)
    cotangent = torch.ones_like(y, requires_grad=True)
    (g,) = torch.autograd.grad(y, x, cotangent, create_graph=True, allow_unused=True)
    if g is None or not g.requires_grad:
        return torch.zeros_like(y)
    (slope,) = torch.autograd.grad(g.sum(), cotangent, create_graph=True, materialize_grads=True)
    return slope


class ScalarNetwork(NamedTuple):
    """A network of one number within a descriptor, and the range of its input."""

    path: str
    """Of the module."""
    lower: int
    upper: int
    both_sides: bool
    """Whether the input may leave the range below as well: products of directions."""


def scalar_networks(descriptor: nn.Module, min_distance: float) -> tuple[ScalarNetwork, ...]:
    """Networks that a table can stand in for, in a fixed order.

    Parameters
    ----------
    min_distance
        Å; between the lower and the upper end lies what neighbours at this distance and beyond give.
    """
    return tuple(found for path, module in descriptor.named_modules() for found in _within(path, module, min_distance))


def _within(path: str, module: nn.Module, min_distance: float) -> Iterator[ScalarNetwork]:
    def named(name: str) -> str:
        return f"{path}.{name}" if path else name

    if isinstance(module, NeighborEmbedding) and module.strip:
        yield ScalarNetwork(named("network"), *_radial(module.environment, min_distance), False)
    elif isinstance(module, ThreeBody) and module.type_network is not None:
        yield ScalarNetwork(named("network"), *_angular(module.environment, min_distance), True)
    elif isinstance(module, SeE3):
        bounds = _angular(module.environment, min_distance)
        yield from (ScalarNetwork(named(f"networks.{k}"), *bounds, True) for k in range(len(module.networks)))
    elif isinstance(module, SeE2A | SeE2R):
        n_types = module.n_types
        for k in range(len(module.networks)):
            neighbor, center = (k, slice(None)) if len(module.networks) == n_types else divmod(k, n_types)
            bounds = _radial(module.environment, min_distance, (neighbor, center))
            yield ScalarNetwork(named(f"networks.{k}"), *bounds, False)


def _largest(environment: Environment, min_distance: float) -> float:
    """Radial column of a neighbour at the smallest distance, before it is scaled."""
    r = torch.tensor(min_distance, dtype=torch.float64)
    switch = float(environment.switch(r, environment.rcut_smth, environment.rcut))
    return switch / (min_distance + environment.protection)


def _radial(
    environment: Environment, min_distance: float, of: tuple[int | slice, ...] = (slice(None),)
) -> tuple[int, int]:
    """Whole numbers between which the scaled radial column lies, for the rows `of` the scales."""
    mean, stddev = (scale[..., 0].double()[of] for scale in (environment.mean, environment.stddev))
    lower = math.floor(float((-mean / stddev).min()))
    upper = math.ceil(float(((_largest(environment, min_distance) - mean) / stddev).max()))
    return lower, max(upper, lower + 1)


def _angular(environment: Environment, min_distance: float) -> tuple[int, int]:
    """Whole numbers between which products of scaled directions lie."""
    size = _largest(environment, min_distance) / float(environment.stddev[..., 1:].min())
    bound = max(math.ceil(size * size), 1)
    return -bound, bound


def with_tables(descriptor: ModuleT, grids: Sequence[TableGrid]) -> ModuleT:
    """The same descriptor with empty tables in the place of its networks of one number.

    Raises
    ------
    ValueError
        If there is not one grid for each of them.
    """
    if not grids:
        return descriptor
    paths = [found.path for found in scalar_networks(descriptor, 1.0)]
    if len(paths) != len(grids):
        raise ValueError(f"compressed has {len(grids)} tables, expected {len(paths)}: one for each network of a number")
    for path, grid in zip(paths, grids, strict=True):
        parent, _, name = path.rpartition(".")
        network = descriptor.get_submodule(path)
        assert isinstance(network, EmbeddingNetwork)
        last = network.layers[-1]
        assert isinstance(last, ResidualLayer)
        n_out, dtype = last.linear.weight.shape[1], last.linear.weight.dtype
        setattr(descriptor.get_submodule(parent), name, TabulatedNetwork(grid, n_out, dtype))
    return descriptor
