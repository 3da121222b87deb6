"""The losses of dipoles, polarizabilities and densities of states (spec fittings.md §3.3, §3.4)."""

from __future__ import annotations

from typing import ClassVar

from dpsim.model.base import Model
from dpsim.train.batches.loader import Batch
from dpsim.train.loss.base import Values, ValuesLoss
from dpsim.train.loss.terms import Term, expanded, or_one, reduced
from dpsim.train.settings.loss import DOSLossConfig, TensorLossConfig


class TensorLoss(ValuesLoss[TensorLossConfig]):
    """Mean squared errors of the components, of structures and of atoms."""

    def __init__(self, config: TensorLossConfig, model: Model) -> None:
        super().__init__(config, model)
        self.quantities = (model.output, f"atomic_{model.output}")
        self.labels = (*self.quantities, "atomic_weight")

    def _total(self, predicted: Values, batch: Batch) -> Term | None:
        label = batch.labels.get(self.quantities[0])
        return None if label is None else reduced((predicted.total - label.values).square(), label)

    def _atomic(self, predicted: Values, batch: Batch) -> Term | None:
        label = batch.labels.get(self.quantities[1])
        if label is None:
            return None
        difference = predicted.atomic - label.values
        if self.config.atomic_weight:
            weight = or_one(batch.labels.get("atomic_weight"), difference)
            difference = difference * expanded(weight, difference)
        return reduced(difference.square(), label)

    makers: ClassVar = {"total": _total, "atomic": _atomic}


class DOSLoss(ValuesLoss[DOSLossConfig]):
    """Mean squared errors over the grid, of the density and of its sums up to each point."""

    labels = quantities = ("dos", "atomic_dos")

    def _term(self, predicted: Values, batch: Batch, name: str, cumulative: bool) -> Term | None:
        label = batch.labels.get(name)
        if label is None:
            return None
        difference = (predicted.total if name == "dos" else predicted.atomic) - label.values
        return reduced((difference.cumsum(1) if cumulative else difference).square(), label)

    makers: ClassVar = {
        "dos": lambda self, predicted, batch: self._term(predicted, batch, "dos", False),
        "cumulative": lambda self, predicted, batch: self._term(predicted, batch, "dos", True),
        "atomic_dos": lambda self, predicted, batch: self._term(predicted, batch, "atomic_dos", False),
        "atomic_cumulative": lambda self, predicted, batch: self._term(predicted, batch, "atomic_dos", True),
    }
