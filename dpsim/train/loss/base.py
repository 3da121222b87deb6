"""What the trainer asks of every loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dpsim.model.base import Model
from dpsim.physics.derivatives import sum_by_frame
from dpsim.train.batches.loader import Batch
from dpsim.train.loss.terms import Joining, Term, Terms, expanded, reduced

Predicted = TypeVar("Predicted")
ConfigT = TypeVar("ConfigT", bound=Any)


class Loss(Generic[ConfigT, Predicted]):
    """Terms and errors of the batches of a training.

    Attributes
    ----------
    config
        Its settings.
    labels
        Fields of frames that it looks at.
    quantities
        What it shows errors of; root mean squares of them are columns of the learning curve.
    joining
        What a term of several batches together is.
    """

    labels: tuple[str, ...]
    quantities: tuple[str, ...]
    joining: Joining = "mean"
    makers: ClassVar[dict[str, Callable[[Any, Any, Batch], Term | None]]]
    """Makes each term; None where no label counts."""

    def __init__(self, config: ConfigT, model: Model) -> None:
        self.config, self.model = config, model

    def predict(self, batch: Batch, *, training: bool) -> Predicted:
        """What the model says of a batch; with `training`, in a form that the loss can be differentiated."""
        raise NotImplementedError

    def blank(self, batch: Batch) -> Predicted:
        """A prediction of zeros, which tells what terms a batch has and how many things each of them sums."""
        raise NotImplementedError

    def terms(self, predicted: Predicted, batch: Batch) -> Terms:
        """Terms of the loss that are on and have labels in the batch, without their weights."""
        terms = {name: self.makers[name](self, predicted, batch) for name in self.config.active}
        return {name: term for name, term in terms.items() if term is not None}

    def errors(self, predicted: Predicted, batch: Batch, power: int = 2) -> Terms:
        """Errors of the `quantities` that have labels in the batch: squared, or with `power` 1 without their signs."""
        raise NotImplementedError


class Values(NamedTuple):
    """Outputs of a model that has no derivatives, for the frames of a batch."""

    total: Tensor
    """(F, ...) sums over the atoms, or their means where the output is intensive."""
    atomic: Tensor
    """(N, ...)"""


class ValuesLoss(Loss[ConfigT, Values]):
    """Loss of outputs without derivatives."""

    def predict(self, batch: Batch, *, training: bool) -> Values:
        """See `Loss.predict`."""
        with torch.set_grad_enabled(training):
            atomic = self.model.values(batch.neighborhood)
            total = sum_by_frame(atomic, batch.frame, batch.n_frames)
            if self.model.intensive:
                total = total / expanded(batch.n_atoms, total)
        return Values(total, atomic)

    def blank(self, batch: Batch) -> Values:
        """See `Loss.blank`."""
        shape = self.model.output_shape
        return Values(
            batch.n_atoms.new_zeros((batch.n_frames, *shape)), batch.n_atoms.new_zeros((len(batch.frame), *shape))
        )

    def errors(self, predicted: Values, batch: Batch, power: int = 2) -> Terms:
        """See `Loss.errors`; those of extensive values are per atom."""
        found: Terms = {}
        for name in self.quantities:
            if (label := batch.labels.get(name)) is None:
                continue
            atomic = name.startswith("atomic_")
            values = predicted.atomic if atomic else predicted.total
            difference = values.detach() - label.values
            if not atomic and not self.model.intensive:
                difference = difference / expanded(batch.n_atoms, difference)
            found[name] = reduced(difference.abs().pow(power), label)
        return found
