"""Optimizers whose state is divided among processes (ZeRO): each process owns some parameters and moves them alone.

Stage 1 divides the state of the optimizer. Stage 2 also the gradients: their sums are kept by the owner only. Stage 3
also the parameters outside of the passes through the model: forces are derivatives, so that the gradient of a loss
passes every block four times, and a block that was given back after its forward pass would be missing in the others.

References
----------
S. Rajbhandari et al., ZeRO, SC20 (2020), arXiv:1910.02054. Differs from it: parameters are owned whole, not cut in
pieces, so that optimizers that see matrices keep seeing them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dpsim.train.parallel.distributed import Workers

Build = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


def owners_of(sizes: Sequence[int], number: int) -> list[int]:
    """Process that owns each parameter, so that all own nearly the same number of elements."""
    owners, loads = [0] * len(sizes), [0] * number
    for k in sorted(range(len(sizes)), key=lambda k: (-sizes[k], k)):
        owners[k] = min(range(number), key=lambda rank: (loads[rank], rank))
        loads[owners[k]] += sizes[k]
    return owners


class DividedOptimizer:
    """What `GradientStep` needs of an optimizer, with its state divided.

    Parameters
    ----------
    build
        Makes the optimizer of some parameters.
    stage
        1, 2 or 3.
    """

    def __init__(self, build: Build, parameters: Sequence[nn.Parameter], workers: Workers, stage: int) -> None:
        self.parameters, self.workers, self.stage = list(parameters), workers, stage
        self.owners = owners_of([p.numel() for p in parameters], workers.number)
        self.own = [k for k, owner in enumerate(self.owners) if owner == workers.rank]
        self.inner = build([self.parameters[k] for k in self.own]) if self.own else None
        self.shapes = [p.shape for p in parameters]
        self.whole = True
        """Whether this process has the values of all parameters."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Where the learning rate is set."""
        return [] if self.inner is None else self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Move the parameters that this process owns, and exchange them, or in stage 3 give the others back."""
        if self.inner is not None:
            self.inner.step()
        self.zero_grad()
        self.whole = False
        if self.stage < 3:
            self.gather()
        else:
            self.release()

    @torch.no_grad()
    def gather(self) -> None:
        """Let all processes have the values of all parameters."""
        if self.whole:
            return
        groups: dict[tuple[int, torch.dtype], list[int]] = {}
        for k, p in enumerate(self.parameters):
            groups.setdefault((self.owners[k], p.dtype), []).append(k)
        flats = [self._flat(group, owner) for (owner, _), group in groups.items()]
        self.workers.spread([owner for owner, _ in groups], flats)
        for (owner, _), group, flat in zip(groups, groups.values(), flats, strict=True):
            if owner != self.workers.rank:
                pieces = torch.split(flat, [self.shapes[k].numel() for k in group])
                for k, piece in zip(group, pieces, strict=True):
                    self._assign(k, piece.view(self.shapes[k]))
        self.whole = True

    def release(self) -> None:
        """Give back the memory of parameters that others own."""
        for k, p in enumerate(self.parameters):
            if self.owners[k] != self.workers.rank:
                p.data = p.data.new_empty(0)
        self.whole = False

    def _flat(self, group: Sequence[int], owner: int) -> torch.Tensor:
        if owner == self.workers.rank:
            return torch.cat([self.parameters[k].detach().flatten() for k in group])
        return self.parameters[group[0]].new_empty(sum(self.shapes[k].numel() for k in group))

    def _assign(self, k: int, values: torch.Tensor) -> None:
        if self.parameters[k].numel() == values.numel():
            self.parameters[k].copy_(values)
        else:
            self.parameters[k].data = values.clone()

    def clip(self, max_norm: float) -> float:
        """As `dpsim.train.optimizers.build.clip_gradients`; in stages 2 and 3 each process has its own gradients."""
        own = [p for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]).double()
        if self.stage > 1:
            (square,) = self.workers.sum([norm.square().item()])
            norm = torch.tensor(square, dtype=torch.float64, device=norm.device).sqrt()
        if max_norm > 0:
            nn.utils.clip_grads_with_norm_(own, max_norm, norm)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """State of an optimizer that is not divided, in the first process; all processes call this."""
        found = self.workers.collect((self.own, None if self.inner is None else self.inner.state_dict()))
        states: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        every = list(range(len(self.owners)))
        for own, state in found:
            if state is not None:
                states |= {own[k]: entry for k, entry in state["state"].items()}
                groups = groups or [{**group, "params": every} for group in state["param_groups"]]
        return {"state": dict(sorted(states.items())), "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the own part of the state of an optimizer that is not divided."""
        if self.inner is None:
            return
        own = {place: state["state"][k] for place, k in enumerate(self.own) if k in state["state"]}
        groups = [{**group, "params": list(range(len(self.own)))} for group in state["param_groups"]]
        self.inner.load_state_dict({"state": own, "param_groups": groups})
