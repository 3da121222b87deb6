"""The loss and the errors of a batch (spec common.md §12, fittings.md §3.1).

Every term is a sum over the rows that count and their number, so that terms of several batches add up
exactly. Real atoms of all frames are pooled, as in release 3.2.0 of the reference. F frames, N atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dpsim.physics.derivatives import Derivatives
from dpsim.train.config import LossConfig
from dpsim.train.loader import Batch, Label


class Term(NamedTuple):
    """Mean error as a sum and the number of things summed."""

    total: Tensor
    size: int


Terms = dict[str, Term]


def loss_terms(prediction: Derivatives, batch: Batch, config: LossConfig) -> Terms:
    """Terms of the loss that are on and have labels in the batch, without their weights."""
    terms = {name: _TERMS[name](prediction, batch, config) for name in config.active}
    return {name: term for name, term in terms.items() if term is not None}


def weighted_sum(terms: Mapping[str, Term], prefactors: Mapping[str, float]) -> Tensor:
    """Scalar loss from its terms and their weights; zero if there are none."""
    parts = [prefactors[name] * (term.total / term.size) for name, term in terms.items()]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def squared_errors(prediction: Derivatives, batch: Batch) -> Terms:
    """Squared errors of energy (per atom), forces (per component) and virial (per atom and component)."""
    found: Terms = {}
    per_atom = _inverse(batch.n_atoms, 2)
    if (label := batch.labels.get("energy")) is not None:
        found["energy"] = _reduced((prediction.energy.detach() - label.values).square() * per_atom, label)
    if (label := batch.labels.get("forces")) is not None:
        found["forces"] = _reduced((prediction.forces.detach() - label.values).square(), label)
    if (label := batch.labels.get("virial")) is not None:
        difference = prediction.virial.detach() - label.values
        found["virial"] = _reduced(difference.square() * per_atom[:, None, None], label)
    return found


def huber(x: Tensor, delta: float) -> Tensor:
    """``x²/2`` up to `delta`, then linear with the same slope."""
    size = x.abs()
    return torch.where(size <= delta, 0.5 * x.square(), delta * (size - 0.5 * delta))


def _reduced(values: Tensor, label: Label) -> Term:
    """Sum of the rows that count, and the number of their components."""
    per_row = values[0].numel() if len(values) else 1
    if label.weight is not None:
        values = values.reshape(len(values), -1) * label.weight[:, None]
    return Term(values.sum(), label.size * per_row)


def _measure(config: LossConfig, delta: float) -> Callable[[Tensor], Tensor]:
    if config.type == "huber":
        return lambda x: huber(x, delta)
    return torch.abs if config.type == "mae" else torch.square


def _energy(prediction: Derivatives, batch: Batch, config: LossConfig) -> Term | None:
    label = batch.labels.get("energy")
    if label is None:
        return None
    return _reduced(_per_atom(prediction.energy - label.values, batch, config, config.deltas[0]), label)


def _virial(prediction: Derivatives, batch: Batch, config: LossConfig) -> Term | None:
    label = batch.labels.get("virial")
    if label is None:
        return None
    difference = prediction.virial - label.values
    return _reduced(_per_atom(difference, batch, config, config.deltas[2]), label)


def _per_atom(difference: Tensor, batch: Batch, config: LossConfig, delta: float) -> Tensor:
    """Errors of extensive quantities: squares over N (or N²), all others of the error per atom."""
    inverse = _inverse(batch.n_atoms, 2 if config.intensive else 1).view(-1, *[1] * (difference.ndim - 1))
    if config.type == "mse":
        return difference.square() * inverse
    return _measure(config, delta)(difference * inverse)


def _inverse(n: Tensor, power: int) -> Tensor:
    """``1 / n^power``, rounded to single precision as the reference does, so that losses agree in all digits."""
    return (1 / n.to(torch.float32)).pow(power).to(torch.float64)


def _force_difference(prediction: Derivatives, label: Label, config: LossConfig) -> Tensor:
    difference = prediction.forces - label.values
    if config.relative_forces is None:
        return difference
    size = torch.linalg.vector_norm(label.values, dim=1, keepdim=True)
    return difference / (size + config.relative_forces)


def _forces(prediction: Derivatives, batch: Batch, config: LossConfig) -> Term | None:
    label = batch.labels.get("forces")
    if label is None:
        return None
    difference = _force_difference(prediction, label, config)
    if config.force_norm:
        difference = torch.linalg.vector_norm(difference, dim=1)
    return _reduced(_measure(config, config.deltas[1])(difference), label)


def _weighted_forces(prediction: Derivatives, batch: Batch, config: LossConfig) -> Term | None:
    forces, weight = batch.labels.get("forces"), batch.labels.get("force_weight")
    if forces is None or weight is None:
        return None
    both = _both(forces, weight)
    if both.size == 0:
        return None
    error = _measure(config, 0.0)(_force_difference(prediction, forces, config))
    return _reduced(weight.values[:, None] * error, both)


def _both(a: Label, b: Label) -> Label:
    """Rows of `a` that count in both."""
    if a.weight is None or b.weight is None:
        return Label(a.values, b.weight if a.weight is None else a.weight, min(a.size, b.size))
    weight = a.weight * b.weight
    return Label(a.values, weight, int(weight.sum()))


def _atomic_energy(prediction: Derivatives, batch: Batch, config: LossConfig) -> Term | None:
    label = batch.labels.get("atomic_energy")
    if label is None:
        return None
    return _reduced(_measure(config, config.deltas[0])(prediction.atomic_energy - label.values), label)


_TERMS: dict[str, Callable[[Derivatives, Batch, LossConfig], Term | None]] = {
    "energy": _energy,
    "forces": _forces,
    "virial": _virial,
    "atomic_energy": _atomic_energy,
    "weighted_forces": _weighted_forces,
}
