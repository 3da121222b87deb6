"""Muon: matrices move along their orthogonalized momentum, everything else is Adam's (spec common.md §14)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpsim.train.settings.optimizer import MuonConfig

ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that bring singular values of 0.01 to 1 near 1 in few iterations, rather than exactly to 1."""


class Muon(torch.optim.Optimizer):
    """One step of `MuonConfig`; the learning rate is set by ``param_groups``.

    A parameter counts as a matrix by its shape without axes of length 1. What has more than two such axes is a stack of
    matrices (the last two axes), each of which is treated by itself.

    References
    ----------
    K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024). J. Liu et al., arXiv:2502.16982
    (2025): decay and the scaling ``rms``. C. Si et al., arXiv:2507.11005 (2025): AdaMuon.
    """

    def __init__(self, config: MuonConfig, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.config = config

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    shape = matrix_shape(p.shape)
                    if min(shape[-2:]) >= self.config.smallest_matrix:
                        self._matrix(p, p.grad, shape, group["lr"])
                    else:
                        self._adam(p, p.grad, group["lr"] * self.config.adam_factor)

    def _matrix(self, p: Tensor, grad: Tensor, shape: tuple[int, ...], rate: float) -> None:
        config, state = self.config, self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"]
        momentum.lerp_(grad, 1 - config.momentum)
        ahead = grad.lerp(momentum, config.momentum).reshape(shape)
        if config.type == "AdaMuon":
            direction = self._by_element(orthogonal(ahead.sign()), state)
        else:
            direction = orthogonal(ahead)
        size = self._size(*shape[-2:])
        p.mul_(1 - rate * config.weight_decay).add_(direction.reshape(p.shape), alpha=-rate * size)

    def _by_element(self, direction: Tensor, state: dict[str, Any]) -> Tensor:
        """Each element over its running root mean square, scaled back to the length of an orthogonal matrix."""
        if "square" not in state:
            state["square"] = torch.zeros_like(direction)
        state["square"].lerp_(direction.square(), 1 - self.config.momentum)
        scaled = direction / (state["square"].sqrt() + self.config.eps)
        wanted = math.sqrt(min(direction.shape[-2:]))
        return scaled * (wanted / torch.linalg.matrix_norm(scaled, keepdim=True).clamp(min=self.config.eps))

    def _size(self, inputs: int, outputs: int) -> float:
        """Factor of an orthogonal matrix."""
        if self.config.scaling == "aspect":
            return math.sqrt(max(1.0, outputs / inputs))
        return self.config.rms * math.sqrt(max(inputs, outputs))

    def _adam(self, p: Tensor, grad: Tensor, rate: float) -> None:
        (first, second), state = self.config.betas, self.state[p]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        mean = state["exp_avg"].lerp_(grad, 1 - first)
        square = state["exp_avg_sq"].lerp_(grad.square(), 1 - second)
        size = (square / (1 - second ** state["step"])).sqrt_().add_(self.config.eps)
        p.addcdiv_(mean, size, value=-rate / (1 - first ** state["step"]))


def matrix_shape(shape: torch.Size) -> tuple[int, ...]:
    """Shape without axes of length 1, with at least two axes: ``(..., rows, columns)``."""
    long = tuple(n for n in shape if n != 1)
    return (1,) * (2 - len(long)) + long


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices ``(..., m, n)`` with the same singular vectors and all singular values near 1."""
    a, b, c = _QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.mT
