"""The loss of any property (spec fittings.md §3.5)."""

from __future__ import annotations

from typing import ClassVar

from dpsim.model.base import Model
from dpsim.train.batches.loader import Batch
from dpsim.train.loss.base import Values, ValuesLoss
from dpsim.train.loss.terms import Term, expanded, joining, measure, reduced, rooted
from dpsim.train.settings.loss import PropertyLossConfig

_SMALL = 1e-3
"""Added to the label that an error is divided by; part of the loss's definition."""


class PropertyLoss(ValuesLoss[PropertyLossConfig]):
    """Errors in units of the deviation of the first type; per atom unless the property is intensive."""

    labels = quantities = ("property",)

    def __init__(self, config: PropertyLossConfig, model: Model) -> None:
        super().__init__(config, model)
        self.measure, self.deviation = measure(config.function, config.beta), model.out_std[0]
        self.joining = joining(config.function)

    def _property(self, predicted: Values, batch: Batch) -> Term | None:
        label = batch.labels.get("property")
        if label is None:
            return None
        found, expected = predicted.total, label.values
        if not self.model.intensive:
            n = expanded(batch.n_atoms, found)
            found, expected = found / n, expected / n
        if self.config.function == "mape":
            return reduced(((found - expected) / (expected + _SMALL)).abs(), label)
        term = reduced(self.measure((found - expected) / self.deviation), label)
        return rooted(term.total, term.size) if self.config.function == "rmse" else Term(term.total, 1)

    makers: ClassVar = {"property": _property}
