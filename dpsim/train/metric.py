"""What the best model has least of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dpsim.errors import ConfigError
from dpsim.train.batches.loader import Batch, BatchMaker, Prefetch, making_threads
from dpsim.train.loss import AnyLoss
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.records.running import Running

_ABSOLUTE = "abs."


class Metric:
    """Validation metric of a training, from sums over the batches.

    Parameters
    ----------
    name
        ``loss``, or a quantity and ``mae`` or ``rmse`` with a colon between.
    """

    def __init__(self, name: str, loss: AnyLoss) -> None:
        self.name, self.loss = name, loss
        self.quantity, _, self.kind = name.partition(":")
        self.terms: tuple[str, ...] = ()
        """Terms of the loss that the data have labels for."""

    def attach(self, labels: Mapping[str, int], *, validated: bool) -> None:
        """Take the data that the best model is chosen by; refuse a metric that they have no labels for.

        Parameters
        ----------
        labels
            Number of frames that have each field.
        validated
            Whether these are validation data.

        Raises
        ------
        ConfigError
            Naming what there is.
        """
        if self.name == "loss":
            self.terms = tuple(term for term in self.loss.config.active if all(map(labels.get, self.fields(term))))
            return
        if self.quantity not in self.loss.quantities:
            raise ConfigError(
                f"validation_metric: {self.name}: there is no error of {self.quantity}, expected loss, or one of "
                f"{', '.join(self.loss.quantities)} with :mae or :rmse"
            )
        if not labels.get(self.quantity):
            what = "validation" if validated else "training"
            raise ConfigError(
                f"validation_metric: {self.name}: no frame of the {what} data has the label {self.quantity!r}: "
                "choose another metric, or add the label"
            )
        if self.kind == "mae" and not validated:
            raise ConfigError(
                f"validation_metric: {self.name} needs validation data: add them, or write {self.quantity}:rmse"
            )

    def fields(self, term: str = "") -> tuple[str, ...]:
        """Labels that a term of the loss needs; without one, those of all that counts here."""
        if term:
            return tuple(self.loss.config.needs(term, self.loss.model.output))
        return tuple(field for one in self.terms for field in self.fields(one)) or (self.quantity,)

    def add(self, sums: Running, predicted: Any, batch: Batch) -> None:
        """Add what the metric needs of a batch beside terms and squared errors."""
        if self.kind == "mae":
            sums.add(self.loss.errors(predicted, batch, 1), _ABSOLUTE)

    def of(self, sums: Running) -> float | None:
        """Value for these sums; None if a label that counts was in none of the frames."""
        if self.kind:
            return sums.root(self.quantity) if self.kind == "rmse" else sums.mean(_ABSOLUTE + self.quantity)
        total = 0.0
        for name in self.terms:
            mean = sums.mean(f"term.{name}")
            if mean is None:
                return None
            total += self.loss.config.active[name][1] * mean
        return total


def evaluate(
    metric: Metric, maker: BatchMaker, plan: Iterable[list[int]], device: torch.device, workers: Workers = ALONE
) -> Running:
    """Loss terms, errors and what the metric needs, over batches of frames.

    Parameters
    ----------
    plan
        Frame indices of each batch.
    workers
        Processes that share the batches.
    """
    sums, loss = Running(), metric.loss
    own = itertools.islice(plan, workers.rank, None, workers.number)
    with Prefetch(maker, ((batch, None) for batch in own), making_threads(device, workers.local_number)) as batches:
        for made, _ in batches:
            batch = made.to(device)
            predicted = loss.predict(batch, training=False)
            sums.add(loss.terms(predicted, batch), "term.")
            sums.add(loss.errors(predicted, batch))
            metric.add(sums, predicted, batch)
    return Running.joined([Running(found) for found in workers.gather(sums.sums)])
