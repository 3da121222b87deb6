"""Fine-tuning by thin matrices: each matrix of a pretrained model is moved by a product of low rank.

A weight `W` is `W0 + s A B` with `A` (…, m, r) and `B` (…, r, n): `W0` stays, the optimizer moves `A` and `B`. Their
gradients follow from that of `W`, so that models, losses and compiled steps know nothing of it, and the model that
comes out is an ordinary one.

References
----------
E. J. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR (2022), arXiv:2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpsim.train.optimizers.build import clip_gradients
from dpsim.train.settings.transfer import LowRankConfig

Build = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


class _Product:
    """The matrices behind one weight."""

    def __init__(self, weight: nn.Parameter, config: LowRankConfig, generator: torch.Generator) -> None:
        *outer, rows, columns = weight.shape
        self.weight, self.scale = weight, config.alpha / config.rank
        self.base = weight.detach().clone()
        left = torch.randn(*outer, rows, config.rank, generator=generator, dtype=torch.float64) / math.sqrt(rows)
        self.left = nn.Parameter(left.to(weight))
        self.right = nn.Parameter(weight.new_zeros(*outer, config.rank, columns))

    @torch.no_grad()
    def take_gradient(self) -> None:
        """From that of the weight."""
        gradient = self.weight.grad
        self.left.grad = None if gradient is None else self.scale * gradient @ self.right.mT
        self.right.grad = None if gradient is None else self.scale * self.left.mT @ gradient

    @torch.no_grad()
    def put(self) -> None:
        """Give the weight its value."""
        self.weight.copy_(self.base + self.scale * (self.left @ self.right))

    def state(self) -> dict[str, Tensor]:
        """Everything that the weight follows from."""
        return {"base": self.base, "left": self.left.detach(), "right": self.right.detach()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take what `state` gave."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


class LowRankOptimizer:
    """What `GradientStep` needs of an optimizer, with some parameters moved by products.

    Parameters
    ----------
    build
        Makes the optimizer of what moves.
    parameters
        All that are trained; `factored` are among them.
    seed
        Of the first values of `A`; those of `B` are zero, so that training begins at the pretrained model.
    """

    def __init__(
        self,
        build: Build,
        parameters: Sequence[nn.Parameter],
        factored: Sequence[nn.Parameter],
        config: LowRankConfig,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.parameters = list(parameters)
        self.products = [_Product(p, config, generator) for p in factored]
        behind = {id(one.weight): [one.left, one.right] for one in self.products}
        self.moved = [q for p in parameters for q in behind.get(id(p), [p])]
        """What the inner optimizer moves."""
        self.inner = build(self.moved)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Where the learning rate is set."""
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for p in (*self.parameters, *self.moved):
            p.grad = None

    def clip(self, max_norm: float) -> float:
        """Take the gradients of the factors; their length before it is shortened to `max_norm` (0: left as it is)."""
        for product in self.products:
            product.take_gradient()
        return clip_gradients(self.moved, max_norm).item()

    def step(self) -> None:
        """Move the factors and the other parameters."""
        self.inner.step()
        for product in self.products:
            product.put()

    def state_dict(self) -> dict[str, Any]:
        """State of the inner optimizer, and the matrices."""
        return {"inner": self.inner.state_dict(), "products": [product.state() for product in self.products]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.inner.load_state_dict(state["inner"])
        for product, own in zip(self.products, state["products"], strict=True):
            product.load(own)
