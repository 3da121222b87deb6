"""Small random structures that fit a model: dense enough to interact, thin enough never to exceed `sel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dpsim.physics.neighbors import NeighborSpec, edge_list

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Periodic = tuple[bool, bool, bool]

DENSITY = 0.08
"""Atoms per Å³ of the structures, about that of metals and liquid water; less where `sel` asks for it."""
CLEARANCE = 0.01
"""No pair is closer than this to a cutoff, in Å: finite differences must not move it across."""


class Structure(NamedTuple):
    """Positions (n, 3) and cell (3, 3) in Å, types (n,); `cell` None means open boundaries."""

    positions: FloatArray
    types: IntArray
    cell: FloatArray | None = None
    periodic: Periodic | None = None
    spin: FloatArray | None = None
    """(n, 3) μB; None: what the types say (`dpsim.testing.subject.Subject.frame`)."""

    def as_frame(self) -> dict[str, Any]:
        """Arguments of `dpsim.Potential.evaluate`."""
        return {name: value for name, value in self._asdict().items() if name != "spin" or value is not None}


def packing_density(spec: NeighborSpec) -> float:
    """Density in 1/Å³ at which centres use at most about half of their places."""
    limits = [0.5 * min(one.sel, *one.sel_by_type, one.sel) / one.cutoff**3 for one in spec.walk()]
    return min(DENSITY, min(limits) * 3 / (4 * np.pi))


def molecule(spec: NeighborSpec, n_types: int, n_atoms: int = 6, seed: int = 0) -> Structure:
    """Open structure whose atoms all see others."""
    return _clear(spec, seed, lambda rng: _molecule(spec, n_types, n_atoms, rng))


def crystal(spec: NeighborSpec, n_types: int, n_atoms: int = 9, seed: int = 0) -> Structure:
    """Periodic structure in a triclinic cell; with few atoms the cell is smaller than the cutoff."""
    return _clear(spec, seed, lambda rng: _crystal(spec, n_types, n_atoms, rng))


def repeated(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """Supercell; the copies follow each other, the original first."""
    assert structure.cell is not None
    shifts = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 3) @ structure.cell
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    cell = structure.cell * np.array(repeats)[:, None]
    return Structure(positions, np.tile(structure.types, len(shifts)), cell)


def with_images(structure: Structure, radius: float) -> Structure:
    """The atoms, followed by all their periodic images within `radius` (Å) of any of them, as an open structure."""
    assert structure.cell is not None
    heights = 1 / np.linalg.norm(np.linalg.inv(structure.cell), axis=0)
    extent = radius + np.ptp(structure.positions, axis=0).max() * np.sqrt(3)
    counts = np.ceil(extent / heights).astype(int)
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts], indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = shifts[np.argsort(np.abs(shifts).sum(axis=1), kind="stable")]  # the original first
    positions = (structure.positions[None] + (shifts @ structure.cell)[:, None]).reshape(-1, 3)
    distances = np.linalg.norm(positions[:, None] - structure.positions[None], axis=2).min(axis=1)
    near = distances <= radius
    return Structure(positions[near], np.tile(structure.types, len(shifts))[near])


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """Proper rotation matrix."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _types(n_atoms: int, n_types: int, rng: np.random.Generator) -> IntArray:
    return rng.permutation(np.arange(n_atoms) % n_types).astype(np.int64)


def _sites(n_atoms: int, rng: np.random.Generator) -> tuple[IntArray, int]:
    side = int(np.ceil(np.cbrt(n_atoms)))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return rng.permutation(sites)[:n_atoms], side


def _molecule(spec: NeighborSpec, n_types: int, n_atoms: int, rng: np.random.Generator) -> Structure:
    spacing = packing_density(spec) ** (-1 / 3)
    spacing = min(spacing, 0.7 * min(one.cutoff for one in spec.walk()))
    sites, _ = _sites(n_atoms, rng)
    positions = (sites + rng.uniform(-0.2, 0.2, sites.shape)) * spacing
    return Structure(positions @ random_rotation(rng).T, _types(n_atoms, n_types, rng))


def _crystal(spec: NeighborSpec, n_types: int, n_atoms: int, rng: np.random.Generator) -> Structure:
    sites, side = _sites(n_atoms, rng)
    fractional = (sites + 0.5 + rng.uniform(-0.15, 0.15, sites.shape)) / side
    volume = n_atoms / packing_density(spec)
    cell = np.eye(3) + np.tril(rng.uniform(-0.25, 0.25, (3, 3)), -1) + np.diag(rng.uniform(-0.1, 0.1, 3))
    cell *= (volume / np.linalg.det(cell)) ** (1 / 3)
    cell = cell @ random_rotation(rng).T
    return Structure(fractional @ cell, _types(n_atoms, n_types, rng), cell)


def _clear(spec: NeighborSpec, seed: int, draw: Callable[[np.random.Generator], Structure]) -> Structure:
    """First drawn structure without pairs at a cutoff or closer than 0.8 Å, and with no centre beyond `sel`."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        structure = draw(rng)
        periodic = (structure.cell is not None,) * 3
        center, neighbor, d = edge_list(structure.positions, structure.cell, periodic, spec.cutoff + CLEARANCE)
        r = np.linalg.norm(d, axis=1)
        crowded = any(_crowded(one, center, structure.types[neighbor], r) for one in spec.walk())
        clear = all(np.abs(r - one.cutoff).min(initial=1.0) > CLEARANCE for one in spec.walk())
        if len(r) and r.min() > 0.8 and clear and not crowded:
            return structure
    raise RuntimeError(
        f"no structure of {len(structure.types)} atoms fits {spec}: choose larger sel or smaller cutoffs"
    )


def _crowded(spec: NeighborSpec, center: IntArray, neighbor_type: IntArray, r: FloatArray) -> bool:
    """Whether a centre has more neighbours than the list has places."""
    near = r < spec.cutoff
    limits = [(near, spec.sel), *((near & (neighbor_type == t), n) for t, n in enumerate(spec.sel_by_type))]
    return any(np.bincount(center[mask], minlength=1).max() > limit for mask, limit in limits)
