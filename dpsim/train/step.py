"""How a step is made: from batches to new parameters, by a gradient or by a Kalman filter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dpsim.train.arithmetic import bf16_products
from dpsim.train.config import TrainConfig
from dpsim.train.kalman import KalmanFilter, chosen_atoms, factor
from dpsim.train.loader import Batch, Label
from dpsim.train.loss import AnyLoss, Term, Terms, weighted_sum
from dpsim.train.optimizer import build_optimizer, clip_gradients, set_learning_rate
from dpsim.train.optimizer_config import KalmanConfig
from dpsim.train.running import Clock
from dpsim.train.schedule import LearningRate, prefactor

Tag = TypeVar("Tag")


class Outcome(NamedTuple):
    """What a step found before it moved the parameters."""

    loss: float
    terms: Terms
    """Of the loss, over all batches."""
    errors: Terms
    """Squared errors, over all batches."""


class NotFiniteError(Exception):
    """The loss or its gradient is not a number; the parameters have not been moved."""

    def __init__(self, loss: float, norm: float) -> None:
        super().__init__(f"the loss is {loss:g} and its gradient {norm:g}")


class Step(Protocol):
    """One way of making steps."""

    loss: AnyLoss
    """Of the next steps."""

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """Make the 0-based step `number` with the batches; raises `NotFiniteError`."""

    def rate(self, number: int) -> float | None:
        """Learning rate of a step; None if there is no such thing."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""


def make_step(
    config: TrainConfig, loss: AnyLoss, parameters: Sequence[nn.Parameter], clock: Clock, workers: int = 1
) -> Step:
    """Make the steps of a training.

    Parameters
    ----------
    clock
        Told what a step does when.
    workers
        Processes that train together.
    """
    if isinstance(config.optimizer, KalmanConfig):
        return KalmanStep(config, config.optimizer, loss, parameters, clock)
    return GradientStep(config, loss, parameters, clock, workers)


class GradientStep:
    """The gradient of the loss, shortened if need be, is handed to the optimizer.

    Several batches are gone through one after the other, so that only one is in memory; in each term of the loss they
    count by their number of labels, as if they were one batch.
    """

    def __init__(
        self, config: TrainConfig, loss: AnyLoss, parameters: Sequence[nn.Parameter], clock: Clock, workers: int
    ) -> None:
        assert not isinstance(config.optimizer, KalmanConfig)
        self.loss, self.parameters, self.clock = loss, parameters, clock
        self.max_norm, self.products = config.gradient_max_norm, config.matrix_products
        self.optimizer = build_optimizer(config.optimizer, parameters)
        self.schedule = LearningRate(config.learning_rate, config.total_steps, workers)

    def rate(self, number: int) -> float:
        """See `Step.rate`."""
        return self.schedule(number)

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """See `Step.__call__`."""
        fraction = self.schedule.fraction(number)
        weights = {name: prefactor(pair, fraction) for name, pair in self.loss.config.active.items()}
        self.optimizer.zero_grad(set_to_none=True)
        found = [
            self._backward(batch, {name: weight * share[name] for name, weight in weights.items()})
            for batch, share in zip(batches, shares(self.loss, batches), strict=True)
        ]
        value = sum(outcome.loss for outcome in found)
        norm = clip_gradients(self.parameters, self.max_norm).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise NotFiniteError(value, norm)
        self.clock.lap("backward")
        set_learning_rate(self.optimizer, self.rate(number))
        self.optimizer.step()
        self.clock.lap("optimizer")
        return Outcome(value, summed([o.terms for o in found]), summed([o.errors for o in found]))

    def _backward(self, batch: Batch, weights: Mapping[str, float]) -> Outcome:
        with bf16_products(self.products, self.parameters[0].device.type):
            predicted = self.loss.predict(batch, training=True)
        terms = self.loss.terms(predicted, batch)
        loss = weighted_sum(terms, weights)
        self.clock.lap("forward")
        if terms:
            loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        self.clock.lap("backward")
        return Outcome(loss.item(), detached(terms), self.loss.errors(predicted, batch))

    def state_dict(self) -> dict[str, Any]:
        """See `Step.state_dict`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Step.load_state_dict`."""
        self.optimizer.load_state_dict(state)


class KalmanStep:
    """One measurement of the energies of a batch, then some of the forces of a few atoms each.

    Errors are those of the parameters before the step. Energies count per atom; forces are divided by the number of
    atoms of a frame too. A batch is one measurement: predictions are added, errors are averaged and multiplied by the
    root of the number of frames.
    """

    def __init__(
        self,
        config: TrainConfig,
        filter_config: KalmanConfig,
        loss: AnyLoss,
        parameters: Sequence[nn.Parameter],
        clock: Clock,
    ) -> None:
        self.config, self.loss, self.clock = filter_config, loss, clock
        self.products = config.matrix_products
        self.seed, self.steps = config.seed, config.total_steps
        self.parameters = [p for p in parameters if p.requires_grad]
        self.filter = KalmanFilter(filter_config, self.parameters)

    def rate(self, number: int) -> None:
        """See `Step.rate`."""

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """See `Step.__call__`."""
        (batch,) = batches
        done = number / self.steps
        predicted = self._predict(batch)
        terms, errors = self.loss.terms(predicted, batch), self.loss.errors(predicted, batch)
        limits = {name: limit for name, (_, limit) in self.loss.config.active.items()}
        value = weighted_sum(terms, limits).item()
        self.clock.lap("forward")
        if not math.isfinite(value):
            raise NotFiniteError(value, math.nan)
        energy, forces = batch.labels.get("energy"), batch.labels.get("forces")
        weight = factor(self.config.energy, done)
        if energy is not None and "energy" in limits and weight > 0:
            rows = counted(energy, batch.n_frames)
            per_atom = weight / batch.n_atoms[rows]
            self._measure(predicted.energy[rows] * per_atom, energy.values[rows] * per_atom, batch)
        weight = factor(self.config.forces, done) / batch.n_atoms.mean().item()
        if forces is not None and "forces" in limits and weight > 0:
            rows = counted(forces, len(forces.values))
            for update in range(self.config.force_updates):
                chosen = chosen_atoms(self.seed, number, update, rows, self.config.atoms_per_update * batch.n_frames)
                now = self._predict(batch).forces
                self.clock.lap("forward")
                self._measure(now[chosen] * weight, forces.values[chosen] * weight, batch)
        return Outcome(value, detached(terms), errors)

    def _predict(self, batch: Batch) -> Any:
        with bf16_products(self.products, self.parameters[0].device.type):
            return self.loss.predict(batch, training=True)

    def _measure(self, predicted: Tensor, label: Tensor, batch: Batch) -> None:
        """Update the parameters with the sum of some predictions, each with the sign of its error."""
        difference = label - predicted.detach()
        sign = torch.where(difference < 0, -1.0, 1.0)
        gradients = torch.autograd.grad((sign * predicted).sum(), self.parameters, allow_unused=True)
        self.clock.lap("backward")
        error = difference.abs().mean().item() * math.sqrt(batch.n_frames)
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients if g is not None))
        if not (math.isfinite(error) and math.isfinite(norm)):
            raise NotFiniteError(error, norm)
        self.filter.update(gradients, error)
        self.clock.lap("optimizer")

    def state_dict(self) -> dict[str, Any]:
        """See `Step.state_dict`."""
        return self.filter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Step.load_state_dict`."""
        self.filter.load_state_dict(state)


def grouped(batches: Iterable[tuple[Batch, Tag]], number: int) -> Iterator[tuple[list[Batch], Tag]]:
    """So many batches at a time, with the tag of the last."""
    group: list[Batch] = []
    for batch, tag in batches:
        group.append(batch)
        if len(group) == number:
            yield group, tag
            group = []


def shares(loss: AnyLoss, batches: Sequence[Batch]) -> list[dict[str, float]]:
    """Part of each batch in each term of the loss, by its number of labels; parts of a term sum to 1."""
    found: list[dict[str, float]] = [{} for _ in batches]
    for term in loss.config.active:
        field = loss.config.needs(term, loss.model.output)[0]
        sizes = [batch.labels[field].size if field in batch.labels else 0 for batch in batches]
        for entry, size in zip(found, sizes, strict=True):
            entry[term] = size / total if (total := sum(sizes)) else 0.0
    return found


def counted(label: Label, n: int) -> Tensor:
    """Indices of the rows of a label that count; `n` rows in all."""
    if label.weight is None:
        return torch.arange(n, device=label.values.device)
    return torch.nonzero(label.weight)[:, 0]


def detached(terms: Terms) -> Terms:
    """The same numbers without their graph."""
    return {name: Term(term.total.detach(), term.size) for name, term in terms.items()}


def summed(found: Sequence[Terms]) -> Terms:
    """Terms of several batches as one."""
    if len(found) == 1:
        return found[0]
    total: Terms = {}
    for terms in found:
        for name, term in terms.items():
            before = total.get(name)
            total[name] = term if before is None else Term(before.total + term.total, before.size + term.size)
    return total
