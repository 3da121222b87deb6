"""Made-up water: molecules on a lattice, turned at random, with random labels. Right for speed, not for learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dpsim.data import Frame

TYPE_MAP = ("O", "H")


def water(number: int, seed: int = 0) -> list[Frame]:
    """Boxes of 64 molecules at 1 g/cm³, 192 atoms."""
    rng = np.random.default_rng(seed)
    edge = (64 * 29.9) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) * edge / 4
    molecule = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])
    frames = []
    for _ in range(number):
        turns = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
        positions = (grid[:, None] + molecule @ turns + rng.normal(scale=0.1, size=(64, 1, 3))).reshape(-1, 3)
        labels = {"energy": rng.normal(-30_000, 1), "forces": rng.normal(size=(192, 3))}
        frames.append(
            Frame(positions, np.tile([0, 1, 1], 64), np.eye(3) * edge, {k: np.asarray(v) for k, v in labels.items()})
        )
    return frames


def write_lammps(path: Path) -> None:
    """One such box as a LAMMPS data file."""
    frame = water(1)[0]
    assert frame.cell is not None
    lines = ["water", "", "192 atoms", "2 atom types", ""]
    lines += [f"0.0 {frame.cell[i, i]:.10f} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    lines += ["", "Masses", "", "1 15.999", "2 1.008", "", "Atoms # atomic", ""]
    atoms = zip(frame.types, frame.positions % frame.cell[0, 0], strict=True)
    lines += [f"{i} {t + 1} {x:.10f} {y:.10f} {z:.10f}" for i, (t, (x, y, z)) in enumerate(atoms, 1)]
    path.write_text("\n".join(lines) + "\n")
