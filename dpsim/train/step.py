"""How a step is made: from batches to new parameters, by a gradient or by a Kalman filter."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dpsim.train.batches.loader import Batch, Label
from dpsim.train.config import TrainConfig
from dpsim.train.loss import AnyLoss, Term, Terms
from dpsim.train.optimizers.arithmetic import bf16_products
from dpsim.train.optimizers.build import build_optimizer, clip_gradients, set_learning_rate
from dpsim.train.optimizers.gradients import Gradients
from dpsim.train.optimizers.kalman import KalmanFilter, chosen_atoms, factor
from dpsim.train.optimizers.low_rank import LowRankOptimizer
from dpsim.train.optimizers.schedule import LearningRate, prefactor
from dpsim.train.optimizers.sharding import DividedOptimizer
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.parallel.joining import Head, Joint, Outcome, Union
from dpsim.train.records.running import EXCHANGE, Clock
from dpsim.train.settings.optimizer import AdamConfig, KalmanConfig, MuonConfig

Tag = TypeVar("Tag")


class NotFiniteError(Exception):
    """The loss or its gradient is not a number; the parameters have not been moved."""

    def __init__(self, loss: float, norm: float) -> None:
        super().__init__(f"the loss is {loss:g} and its gradient {norm:g}")
        self.loss, self.norm = loss, norm


class Step(Protocol):
    """One way of making steps."""

    loss: AnyLoss
    """Of the next steps."""
    head: Head
    """What they are for."""

    @property
    def n_moved(self) -> int:
        """Numbers that steps move."""

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """Make the 0-based step `number` with the batches; raises `NotFiniteError`."""

    def rate(self, number: int) -> float | None:
        """Learning rate of a step; None if there is no such thing."""

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Within, every process has the values of all parameters; all processes enter this together."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""


def make_step(
    config: TrainConfig,
    loss: AnyLoss,
    parameters: Sequence[nn.Parameter],
    clock: Clock,
    workers: Workers = ALONE,
    losses: Sequence[AnyLoss] = (),
    factored: Sequence[nn.Parameter] = (),
) -> Step:
    """Make the steps of a training.

    Parameters
    ----------
    clock
        Told what a step does when.
    workers
        Processes that train together.
    losses
        Of all heads; needed where there are several processes.
    factored
        Matrices among the parameters that ``recipe: lora`` moves by products.
    """
    joint = Joint(workers, losses)
    if isinstance(config.optimizer, KalmanConfig):
        return KalmanStep(config, config.optimizer, loss, parameters, clock, joint)
    return GradientStep(config, loss, parameters, clock, joint, factored)


class GradientStep:
    """The gradient of the loss, shortened if need be, is handed to the optimizer.

    Several batches are gone through one after the other, so that only one is in memory (unless a term is a root, which
    needs all). In each term of the loss they count by what they hold, also those of other processes, as if they were
    one batch; heads count by the processes that work on them.
    """

    def __init__(
        self,
        config: TrainConfig,
        loss: AnyLoss,
        parameters: Sequence[nn.Parameter],
        clock: Clock,
        joint: Joint | None = None,
        factored: Sequence[nn.Parameter] = (),
    ) -> None:
        assert not isinstance(config.optimizer, KalmanConfig)
        self.loss, self.parameters, self.clock = loss, parameters, clock
        self.joint, self.head = joint or Joint(), Head()
        self.max_norm, self.products = config.gradient_max_norm, config.matrix_products
        self.optimizer, owners = self._optimizer(config, config.optimizer, factored)
        self.gradients = Gradients(self.joint.workers, parameters, owners)
        self.schedule = LearningRate(config.learning_rate, config.total_steps, self.joint.workers.number)

    def _optimizer(
        self, config: TrainConfig, optimizer: AdamConfig | MuonConfig, factored: Sequence[nn.Parameter]
    ) -> tuple[torch.optim.Optimizer | DividedOptimizer | LowRankOptimizer, list[int] | None]:
        """The optimizer, and who needs which gradients."""

        def build(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
            return build_optimizer(optimizer, parameters)

        if factored:
            return LowRankOptimizer(build, self.parameters, factored, config.lora, config.seed), None
        if config.zero == 0 or self.joint.workers.alone:
            return build(self.parameters), None
        divided = DividedOptimizer(build, self.parameters, self.joint.workers, config.zero)
        return divided, divided.owners if config.zero > 1 else None

    @property
    def n_moved(self) -> int:
        """See `Step.n_moved`."""
        moved = self.optimizer.moved if isinstance(self.optimizer, LowRankOptimizer) else self.parameters
        return sum(p.numel() for p in moved)

    def rate(self, number: int) -> float:
        """See `Step.rate`."""
        return self.schedule(number)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """See `Step.whole`."""
        if not isinstance(self.optimizer, DividedOptimizer):
            yield
            return
        self.optimizer.gather()
        yield
        if self.optimizer.stage == 3:
            self.optimizer.release()

    def _clip(self) -> float:
        if isinstance(self.optimizer, torch.optim.Optimizer):
            return clip_gradients(self.parameters, self.max_norm).item()
        return self.optimizer.clip(self.max_norm)

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """See `Step.__call__`."""
        fraction = self.schedule.fraction(number)
        weights = {name: prefactor(pair, fraction) for name, pair in self.loss.config.active.items()}
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.optimizer, DividedOptimizer):
            self.optimizer.gather()
        hold = len(batches) == 1 or self.loss.joining == "root"
        held = [self._forward(batch) for batch in batches] if hold else []
        union = self.joint.union(self.loss, self.head, batches, [terms for _, terms in held] if hold else None)
        if not self.joint.workers.alone:
            self.clock.lap(EXCHANGE)
        found = [
            self._backward(batch, *(held[k] if hold else self._forward(batch)), union, weights)
            for k, batch in enumerate(batches)
        ]
        outcome = union.outcome(found, weights)
        if not self.joint.workers.alone:
            self.gradients.add()
            self.clock.lap(EXCHANGE)
        norm = self._clip()
        if not (math.isfinite(outcome.loss) and math.isfinite(norm)):
            raise NotFiniteError(outcome.loss, norm)
        self.clock.lap("backward")
        set_learning_rate(self.optimizer, self.rate(number))
        self.optimizer.step()
        self.clock.lap("optimizer")
        return outcome

    def _forward(self, batch: Batch) -> tuple[Any, Terms]:
        with bf16_products(self.products, self.parameters[0].device.type):
            predicted = self.loss.predict(batch, training=True)
        terms = self.loss.terms(predicted, batch)
        self.clock.lap("forward")
        return predicted, terms

    def _backward(
        self, batch: Batch, predicted: Any, terms: Terms, union: Union, weights: Mapping[str, float]
    ) -> Outcome:
        loss = union.part(terms, weights)
        if terms:
            share = self.head.workers / self.joint.workers.number
            part = loss if share == 1 else loss * share
            part.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
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
    atoms of a frame too. A batch is one measurement: predictions are averaged in each frame and added, errors are
    averaged and multiplied by the root of the number of frames.
    """

    def __init__(
        self,
        config: TrainConfig,
        filter_config: KalmanConfig,
        loss: AnyLoss,
        parameters: Sequence[nn.Parameter],
        clock: Clock,
        joint: Joint | None = None,
    ) -> None:
        self.config, self.loss, self.clock = filter_config, loss, clock
        self.joint, self.head = joint or Joint(), Head()
        self.workers = self.joint.workers
        self.products = config.matrix_products
        self.seed, self.steps = config.seed, config.total_steps
        self.parameters = [p for p in parameters if p.requires_grad]
        self.filter = KalmanFilter(filter_config, self.parameters)
        self.gradients = Gradients(self.workers, self.parameters)

    @property
    def n_moved(self) -> int:
        """See `Step.n_moved`."""
        return sum(p.numel() for p in self.parameters)

    def rate(self, number: int) -> None:
        """See `Step.rate`."""

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """See `Step.whole`."""
        return contextlib.nullcontext()

    def __call__(self, batches: Sequence[Batch], number: int) -> Outcome:
        """See `Step.__call__`."""
        (batch,) = batches
        done = number / self.steps
        predicted = self._predict(batch)
        terms, errors = self.loss.terms(predicted, batch), self.loss.errors(predicted, batch)
        limits = {name: limit for name, (_, limit) in self.loss.config.active.items()}
        union = self.joint.union(self.loss, self.head, batches, [terms])
        value = union.part(terms, limits).item()
        self.clock.lap("forward")
        rows = {name: counted(label, len(label.values))
                for name in ("energy", "forces") if (label := batch.labels.get(name)) is not None}  # fmt: skip
        whole = self._whole(batch, rows, value)
        if not math.isfinite(whole.value):
            raise NotFiniteError(whole.value, math.nan)
        weight = factor(self.config.energy, done)
        if whole.energies and "energy" in limits and weight > 0:
            chosen = rows.get("energy", _NO_ROWS)
            per_atom = weight / batch.n_atoms[chosen]
            self._measure(predicted.energy[chosen] * per_atom, _values(batch, "energy", chosen) * per_atom, whole)
        weight = factor(self.config.forces, done) / (whole.atoms / whole.frames)
        if whole.forces and "forces" in limits and weight > 0:
            for update in range(self.config.force_updates):
                there = rows.get("forces", _NO_ROWS)
                most = self.config.atoms_per_update * batch.n_frames
                chosen = chosen_atoms(self.seed, number, update, there, most, self.workers.rank)
                now = self._predict(batch).forces
                self.clock.lap("forward")
                self._measure(now[chosen] * weight, _values(batch, "forces", chosen) * weight, whole)
        return Outcome(value, detached(terms), errors)

    def _whole(self, batch: Batch, rows: Mapping[str, Tensor], value: float) -> _Whole:
        """What the batches of all processes hold together."""
        labels = [float(len(rows[name])) if name in rows else 0.0 for name in ("energy", "forces")]
        return _Whole(*self.workers.sum([value, float(batch.n_frames), batch.n_atoms.sum().item(), *labels]))

    def _predict(self, batch: Batch) -> Any:
        with bf16_products(self.products, self.parameters[0].device.type):
            return self.loss.predict(batch, training=True)

    def _measure(self, predicted: Tensor, label: Tensor, whole: _Whole) -> None:
        """Update the parameters with the sum of some predictions, each with the sign of its error."""
        difference = label - predicted.detach()
        sign = torch.where(difference < 0, -1.0, 1.0)
        own = torch.autograd.grad((sign * predicted).sum(), self.parameters, allow_unused=True)
        gradients = self.gradients.added(own)
        self.clock.lap("backward")
        size, number = self.workers.sum([difference.abs().sum().item(), float(difference.numel())])
        error, each = size / number * math.sqrt(whole.frames), number / whole.frames
        gradients = [None if g is None else g / each for g in gradients]
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


class _Whole(NamedTuple):
    """What the batches of all processes hold together."""

    value: float
    """Of the loss."""
    frames: float
    atoms: float
    energies: float
    """Rows of the label; so are `forces`."""
    forces: float


_NO_ROWS = torch.zeros(0, dtype=torch.int64)


def _values(batch: Batch, name: str, rows: Tensor) -> Tensor:
    """Rows of a label; none where there is no label."""
    label = batch.labels.get(name)
    if label is None:
        return batch.n_atoms.new_zeros((0,) if name == "energy" else (0, 3))
    return label.values[rows]


def grouped(batches: Iterable[tuple[Batch, Tag]], number: int) -> Iterator[tuple[list[Batch], Tag]]:
    """So many batches at a time, with the tag of the last."""
    group: list[Batch] = []
    for batch, tag in batches:
        group.append(batch)
        if len(group) == number:
            yield group, tag
            group = []


def counted(label: Label, n: int) -> Tensor:
    """Indices of the rows of a label that count; `n` rows in all."""
    if label.weight is None:
        return torch.arange(n, device=label.values.device)
    return torch.nonzero(label.weight)[:, 0]


def detached(terms: Terms) -> Terms:
    """The same numbers without their graph."""
    return {name: Term(term.total.detach(), term.size) for name, term in terms.items()}
