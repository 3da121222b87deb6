"""The layer-wise extended Kalman filter: parameters are estimated from one measurement after another.

Parameters w with covariance P, a measurement y whose prediction h(w) has the gradient H, and a forgetting factor λ:

    K = P H / (L λ + Hᵀ P H),    w += K (y − h),    P = (P − K Hᵀ P) / λ,    λ → 1

P is kept for L blocks of parameters only; what lies between blocks is taken as zero. A measurement is a mean of
energies or of force components, each with the sign that makes its error positive, so that errors cannot cancel; that
of several frames is the sum of theirs.

References
----------
S. Hu et al., RLEKF, AAAI 37 (2023), arXiv:2212.06989; S. Hu et al., PPoPP 2024: batches of frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from dpsim.errors import SetupError
from dpsim.train.settings.optimizer import KalmanConfig


class Piece(NamedTuple):
    """Elements of a parameter that belong to one block."""

    parameter: int
    begin: int
    end: int


def blocks_of(sizes: Sequence[int], most: int) -> list[list[Piece]]:
    """Cut parameters into blocks of at most `most` elements: small neighbours together, large ones in pieces."""
    blocks: list[list[Piece]] = []
    room = 0
    for k, size in enumerate(sizes):
        if size > room:
            blocks.append([])
            room = most
        for begin in range(0, size, most):
            end = min(begin + most, size)
            if begin:
                blocks.append([])
                room = most
            blocks[-1].append(Piece(k, begin, end))
            room -= end - begin
    return [block for block in blocks if block]


class KalmanFilter:
    """Covariance of the parameters, in blocks, and one measurement at a time.

    Raises
    ------
    SetupError
        If the covariance does not fit into the memory.
    """

    def __init__(self, config: KalmanConfig, parameters: Sequence[nn.Parameter]) -> None:
        self.config, self.parameters = config, list(parameters)
        self.blocks = blocks_of([p.numel() for p in self.parameters], config.block_size)
        sizes = [sum(piece.end - piece.begin for piece in block) for block in self.blocks]
        device = self.parameters[0].device
        _check_memory(8 * sum(n * n for n in sizes), config.block_size, device)
        self.covariances = [torch.eye(n, dtype=torch.float64, device=device) for n in sizes]
        self.forgetting = config.forgetting

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor | None], error: float) -> None:
        """Take a measurement: gradient of its prediction by parameter, and by how much the prediction is too small."""
        rows = [self._row(block, gradients) for block in self.blocks]
        gains = [covariance @ row for covariance, row in zip(self.covariances, rows, strict=True)]
        total = sum(float(row @ gain) for row, gain in zip(rows, gains, strict=True))
        weight = 1 / (len(self.blocks) * self.forgetting + total)
        for block, covariance, gain in zip(self.blocks, self.covariances, gains, strict=True):
            self._move(block, gain * (weight * error))
            # The product of a vector with itself is symmetric to the last bit, and so the covariance stays.
            covariance.addr_(gain, gain, alpha=-weight).div_(self.forgetting)
        growth = self.config.forgetting_growth
        self.forgetting = growth * self.forgetting + 1 - growth

    def _row(self, block: Sequence[Piece], gradients: Sequence[Tensor | None]) -> Tensor:
        parts = []
        for k, begin, end in block:
            gradient = gradients[k]
            if gradient is None:
                gradient = torch.zeros_like(self.parameters[k])
            parts.append(gradient.reshape(-1)[begin:end].to(torch.float64))
        return torch.cat(parts)

    def _move(self, block: Sequence[Piece], change: Tensor) -> None:
        start = 0
        for k, begin, end in block:
            values = self.parameters[k].view(-1)[begin:end]
            values += change[start : start + end - begin].to(values.dtype)
            start += end - begin

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"covariances": self.covariances, "forgetting": self.forgetting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.covariances = [t.to(old) for t, old in zip(state["covariances"], self.covariances, strict=True)]
        self.forgetting = float(state["forgetting"])


def _check_memory(needed: int, block_size: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise SetupError(
            f"optimizer.type: LKF needs {needed / 2**30:.3g} GiB for its covariance, and {free / 2**30:.3g} GiB are "
            f"free: lower optimizer.block_size (now {block_size}), take a smaller model, or another optimizer"
        )


def factor(pair: tuple[float, float], done: float) -> float:
    """Between [start, limit], exponentially, after a part `done` of the training."""
    start, limit = pair
    return start * math.exp(done * math.log(limit / start)) if start > 0 else 0.0


def chosen_atoms(seed: int, step: int, update: int, rows: Tensor, number: int, rank: int = 0) -> Tensor:
    """At most `number` of the `rows`, at random, the same for the same seed, step, update and process; ascending."""
    if number >= len(rows):
        return rows
    place = [seed, 3, step, update, *([rank] if rank else [])]
    drawn = np.random.default_rng(place).choice(len(rows), number, replace=False)
    return rows[torch.from_numpy(np.sort(drawn)).to(rows.device)]
