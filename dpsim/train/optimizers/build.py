"""The optimizers that follow a gradient, and the guard of its length (spec common.md §14)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dpsim.train.optimizers.muon import Muon
from dpsim.train.settings.optimizer import AdamConfig, MuonConfig


def build_optimizer(config: AdamConfig | MuonConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer; the learning rate is set before every step."""
    if isinstance(config, MuonConfig):
        return Muon(config, parameters)
    kind = torch.optim.Adam if config.type == "Adam" else torch.optim.AdamW
    return kind(parameters, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=config.decay, fused=True)


class HasGroups(Protocol):
    """What has learning rates."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, each with its ``lr``."""


def set_learning_rate(optimizer: torch.optim.Optimizer | HasGroups, rate: float) -> None:
    """Learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Length of the gradient over all parameters, before it is shortened to `max_norm` (0: left as it is)."""
    present = [p for p in parameters if p.grad is not None]
    if max_norm > 0:
        return nn.utils.clip_grad_norm_(present, max_norm)
    return nn.utils.get_total_norm([p.grad for p in present if p.grad is not None])
