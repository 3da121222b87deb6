"""The descriptors with typed neighbour places, by their definition: every place of every centre, empty or not.

Open structures alone; plain loops over centres and places in numpy, networks of the module under test.
"""

from __future__ import annotations

import numpy as np
import torch

from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph


def module_of(config, n_types, *, means=True, seed=0, **build):
    """Module with random parameters, and random scales of its environments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = config.build([f"T{t}" for t in range(n_types)], **build)
        for name, buffer in module.named_buffers():
            if name.endswith("environment.stddev"):
                buffer.copy_(0.1 + 0.1 * torch.rand(*buffer.shape[:-1], 1, dtype=buffer.dtype))
            if name.endswith("environment.mean") and means:
                buffer[..., 0] = 0.1 * torch.randn(buffer.shape[:-1], dtype=buffer.dtype)
    return module.requires_grad_(False)


def structure(n_atoms, n_types, seed=0, spacing=1.7):
    """Positions near a grid, and types."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.cbrt(n_atoms)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    return (grid + rng.uniform(-0.2, 0.2, grid.shape)) * spacing, rng.integers(0, n_types, n_atoms)


def evaluate(module, config, positions, types, n_types):
    """What the module gives."""
    return module(collate([frame_graph(positions, types, None, config.neighbors(n_types))]))


def places(config, positions, types, center, sel):
    """Of each place of a centre: the neighbour or −1, and the type it is for."""
    r = np.linalg.norm(positions - positions[center], axis=1)
    near = [j for j in np.argsort(r, kind="stable") if j != center and r[j] <= config.rcut][: sum(sel)]
    filled = []
    for t, count in enumerate(sel):
        mine = [j for j in near if types[j] == t][:count]
        filled += [(j, t) for j in mine] + [(-1, t)] * (count - len(mine))
    return filled


def switch(r, start, end):
    u = min(max((r - start) / (end - start), 0.0), 1.0)
    return u**3 * (-6 * u * u + 15 * u - 10) + 1


def rows(module, config, positions, types, center, sel):
    """Scaled environment (Σ sel, columns) of all places, masked where the pair is excluded."""
    mean, stddev = module.environment.mean.numpy(), module.environment.stddev.numpy()
    hidden = {frozenset(pair) for pair in config.exclude_types}
    found = []
    for j, t in places(config, positions, types, center, sel):
        row = np.zeros(4)
        if j >= 0:
            d = positions[j] - positions[center]
            r = np.linalg.norm(d)
            q = r + config.env_protection
            row = switch(r, config.rcut_smth, config.rcut) * np.array([1 / q, *(d / q**2)])
        row = (row[: mean.shape[-1]] - mean[t, types[center]]) / stddev[t, types[center]]
        found.append(row * (not (j >= 0 and frozenset((t, types[center])) in hidden)))
    return np.array(found)


def network(module, number, x):
    """Output (n, M) of one embedding network for numbers x (n,)."""
    return module.networks[number](torch.from_numpy(np.asarray(x, dtype=np.float64)).reshape(-1, 1)).numpy()
