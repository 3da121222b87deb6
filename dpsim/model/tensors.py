"""Parameters and buffers of a model: what computations with it depend on beside its settings."""

from __future__ import annotations

from torch import Tensor

from dpsim.model.base import Model


def tensors_of(model: Model) -> dict[str, Tensor]:
    """All of them by name; one that has several names has the first."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def described(model: Model) -> tuple[tuple[str, tuple[int, ...], str, bool], ...]:
    """Name, shape and type of each, and whether it is trained."""
    return tuple((name, tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in tensors_of(model).items())
