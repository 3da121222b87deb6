"""The loss of spin populations (spec fittings.md §3.6)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dpsim.model.base import Model
from dpsim.physics.derivatives import sum_by_frame
from dpsim.train.batches.loader import Batch
from dpsim.train.loss.base import Values, ValuesLoss
from dpsim.train.loss.terms import Term, expanded, joining, measure, per_frame, rooted
from dpsim.train.settings.loss import PopulationLossConfig


class PopulationLoss(ValuesLoss[PopulationLossConfig]):
    """Errors of the populations, of their difference (the spin), and of sums over structures."""

    labels = quantities = ("atomic_population",)

    def __init__(self, config: PopulationLossConfig, model: Model) -> None:
        super().__init__(config, model)
        self.measure, self.joining = measure(config.function, config.beta), joining(config.function)

    def _sum(self, errors: Tensor, factors: Tensor) -> Term:
        """Sum over the batch of the measured rows (M, ...), each times its factor (M,)."""
        factors = expanded(factors, errors).expand_as(errors)
        if self.config.function != "rmse":
            return Term((self.measure(errors) * factors).sum(), 1)
        counted = (factors > 0).to(errors.dtype)  # the root of the mean, counted for every error
        return rooted((errors.square() * counted).sum(), counted.sum().item(), factors.sum().item())

    def _of_atoms(self, predicted: Values, batch: Batch, spin: bool) -> Term | None:
        label = batch.labels.get("atomic_population")
        if label is None:
            return None
        errors = predicted.atomic - label.values
        weight = 1 / per_frame(batch, batch.n_atoms)
        if label.weight is not None:
            weight = weight * label.weight
        return self._sum(errors[:, 0] - errors[:, 1] if spin else errors, weight)

    def _of_frames(self, predicted: Values, batch: Batch, alpha: float, beta: float) -> Term | None:
        label = batch.labels.get("atomic_population")
        if label is None:
            return None
        errors = predicted.atomic - label.values
        combined = alpha * errors[:, 0] + beta * errors[:, 1]
        counted = batch.n_atoms.new_ones(len(combined)) if label.weight is None else label.weight
        there = (sum_by_frame(counted, batch.frame, batch.n_frames) > 0).to(combined.dtype)
        return self._sum(sum_by_frame(combined * counted, batch.frame, batch.n_frames), there)

    makers: ClassVar = {
        "spin": lambda self, predicted, batch: self._of_atoms(predicted, batch, True),
        "populations": lambda self, predicted, batch: self._of_atoms(predicted, batch, False),
        "total_spin": lambda self, predicted, batch: self._of_frames(predicted, batch, 1.0, -1.0),
        "total_alpha": lambda self, predicted, batch: self._of_frames(predicted, batch, 1.0, 0.0),
        "total_beta": lambda self, predicted, batch: self._of_frames(predicted, batch, 0.0, 1.0),
    }
