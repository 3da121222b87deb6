"""Evaluates a preset, or makes training steps with it, on copies of made-up water, and prints its largest memory in MB.

python memory_program.py PRESET evaluation|pieces|training COPIES

With ``pieces`` the copies are one structure, evaluated by `Potential`; otherwise so many frames.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpsim import ops
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.calculators.memory import made_up
from dpsim.model.base import Model
from dpsim.model.presets import preset
from dpsim.physics.derivatives import energy_and_derivatives
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph


def main() -> None:
    """Run twice and print."""
    name, what, copies = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    ops.keep_memory()
    model = preset(name, ("O", "H")).build(0)
    sample = made_up(model, 0.1)
    if what == "pieces":
        _evaluate(model, sample, copies)
    else:
        _frames(model, sample, what, copies)
    # Of this program alone: what the C library says of a process counts the one it was forked from.
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024)


def _evaluate(model: Model, sample: dict[str, Any], copies: int) -> None:
    shifts = np.arange(copies)[:, None, None] * sample["cell"][0]
    positions = (sample["positions"] + shifts).reshape(-1, 3)
    cell = sample["cell"] * np.array([copies, 1, 1])[:, None]
    potential = Potential(ModuleEngine(model, "cpu"), "preset")
    for _ in range(2):
        potential.evaluate(positions, np.tile(sample["types"], copies), cell)


def _frames(model: Model, sample: dict[str, Any], what: str, copies: int) -> None:
    graph = frame_graph(sample["positions"], sample["types"], sample["cell"], model.neighbors)
    hood = collate([graph] * copies)
    model.requires_grad_(what == "training")
    for _ in range(2):
        found = energy_and_derivatives(model, hood, copies, create_graph=what == "training")
        loss = found.energy.square().sum() + found.forces.square().sum()
        del found
        if what == "training":
            loss.backward()
            model.zero_grad()


if __name__ == "__main__":
    main()
