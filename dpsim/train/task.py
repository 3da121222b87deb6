"""What is trained on one set of data: its batches, its loss, its errors. A training with several heads has several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch

from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.train.batches.balance import EdgeCounts, divide
from dpsim.train.batches.drawing import drawing
from dpsim.train.batches.frames import FrameSet, require_labels, require_parameters, scan
from dpsim.train.batches.loader import Batch, BatchMaker
from dpsim.train.batches.sampler import Cursor, Filling, Sampler, filling, in_order
from dpsim.train.config import TrainConfig
from dpsim.train.loss import AnyLoss, check_loss, make_loss
from dpsim.train.metric import Metric, evaluate
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.parallel.joining import Outcome
from dpsim.train.records.result import data_facts
from dpsim.train.records.running import Running
from dpsim.train.settings.data import size_of
from dpsim.train.settings.standard_model import ElementBias
from dpsim.train.start.given_bias import BIASED
from dpsim.train.start.setup import check_validation, check_widths

log = logging.getLogger("dpsim.train")

_BEFORE = "metric before"
"""Name of the last value of the metric, for heads that no step was made for since."""


class Checked(NamedTuple):
    """What a look at the validation data found."""

    metric: float | None
    """None if there is nothing yet to tell it from."""
    errors: dict[str, float]
    """Root mean square errors by the name of their column, without the part of the data."""


class Task:
    """Data of one head, and how it is trained on them.

    Parameters
    ----------
    name
        Of the head; empty if it is the only one.
    config
        Settings as those of a training of this head alone.
    output
        What the head predicts.
    workers
        Processes that train together: one looks at the data, for all.
    """

    model: Model
    loss: AnyLoss
    metric: Metric
    make: BatchMaker
    make_valid: BatchMaker | None
    sampler: Sampler
    n_edges: Callable[[int], int]
    """Of a frame, at least about."""

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        frames: FrameSet,
        valid: FrameSet | None,
        output: str,
        workers: Workers = ALONE,
    ) -> None:
        self.name, self.config, self.frames, self.valid, self.workers = name, config, frames, valid, workers
        check_loss(config.loss, output)
        self.found = workers.once(lambda: scan(frames, output))
        require_labels(frames, self.found, config.loss, output, "training")
        self.found_valid = workers.once(lambda: scan(valid, output)) if valid is not None else None
        self.since_row, self.since_check = Running(), Running()

    @property
    def preset(self) -> dict[str, ElementBias]:
        """Output biases of elements that are given instead of fitted."""
        return {} if self.config.model is None else self.config.model.preset_out_bias

    @property
    def n_frames(self) -> int:
        """Frames of training and validation."""
        return len(self.frames) + (len(self.valid) if self.valid is not None else 0)

    def titled(self, quantity: str) -> str:
        """Name of a quantity in columns and results."""
        return f"{quantity}_{self.name}" if self.name else quantity

    @property
    def quantities(self) -> list[str]:
        """What errors are shown of."""
        return [self.titled(name) for name in self.loss.quantities]

    def attach(self, model: Model, device: torch.device, cache_bytes: float) -> None:
        """Take the model, now that what it is made from is known, and make ready.

        Parameters
        ----------
        cache_bytes
            Memory for neighbourhoods that are kept.

        Raises
        ------
        ConfigError
            If the metric is one of other losses or labels.
        DataError
            If the data do not fit the model.
        """
        config, self.model, self.device = self.config, model, device
        check_widths(self.found, model, "training")
        require_parameters(self.found, model.inputs, "training")
        if self.found_valid is not None:
            check_validation(self.found_valid, config, model)
        if config.change_bias_after_training:
            self._check_bias()
        self.loss = make_loss(config.loss, model)
        self.metric = Metric(config.validation_metric, self.loss)
        labels = (self.found if self.found_valid is None else self.found_valid).labels
        self.metric.attach(labels, validated=self.found_valid is not None)
        share = cache_bytes * len(self.frames) / self.n_frames
        self.make = BatchMaker.for_model(self.frames, model, self.loss.labels, share)
        self.n_edges = self.make.n_edges if self.workers.alone else EdgeCounts(self.make, self.workers)
        self.make_valid = None
        if self.valid is not None:
            self.make_valid = BatchMaker.for_model(self.valid, model, self.loss.labels, cache_bytes - share)
        self.sampler = self._sampler()

    def _check_bias(self) -> None:
        """Refuse to change a bias after the training that there is not, or that the data say nothing of."""
        output = self.model.output
        if output not in ("energy", *BIASED):
            raise ConfigError(f"change_bias_after_training: a model of the {output} has no output bias: leave it out")
        if not (self.found.labels.get(output) or self.found.labels.get(f"atomic_{output}")):
            raise ConfigError(
                f"change_bias_after_training: no frame of the training data has a label of the {output}: leave it out"
            )

    def _sampler(self) -> Sampler:
        config, frames, full = self.config, self.frames, self._filling(self.make)
        number = full.get("frames", 0)
        if number > len(frames):
            log.warning(
                "batch_size %d exceeds the %d training frames: every step sees all of them", number, len(frames)
            )
        pools, chances, sizes = drawing(config, frames)
        return Sampler(pools, config.seed, n_atoms=frames.n_atoms, probabilities=chances, sizes=sizes, **full)

    def _filling(self, maker: BatchMaker) -> Filling:
        counted = maker is self.make and isinstance(self.n_edges, EdgeCounts) and self.n_edges.complete
        n_edges = self.n_edges if counted else maker.n_edges
        return filling(size_of(self.config.batch_size), maker.frames.n_atoms, n_edges)

    def divided(self, drawn: Sequence[list[int]]) -> list[list[int]]:
        """Batches anew, so that each has nearly the same number of edges and none more atoms than it may have."""
        if len(drawn) == 1:
            return list(drawn)
        size = size_of(self.config.batch_size)

        def fits(batch: Sequence[int]) -> bool:
            return len(batch) == 1 or sum(map(self.frames.n_atoms, batch)) <= size.number

        return divide(drawn, self.n_edges, fits if size.rule in ("max", "filter") else None)

    def count(self, outcome: Outcome, workers: int = 1) -> None:
        """Add what a step found to the running means.

        Parameters
        ----------
        workers
            Processes that worked on this head: its loss counts as often.
        """
        self.since_row.add_value("loss", workers * outcome.loss, workers)
        self.since_row.add(outcome.errors)
        if self.make_valid is None:
            self.since_check.add(outcome.terms, "term.")
            self.since_check.add(outcome.errors)

    def check(self, averaged: AbstractContextManager[None]) -> Checked:
        """Errors on the validation data, or of the steps since the last check.

        Parameters
        ----------
        averaged
            Within, the model is the one that is kept.
        """
        validated = self.make_valid is not None
        sums = self.since_check if self.make_valid is None else self._validate(self.make_valid, averaged)
        metric = self.metric.of(sums)
        if not validated:
            if metric is None:  # labels of some kind did not come up since the last check: they count until they do
                return Checked(sums.mean(_BEFORE), {})
            self.since_check = Running()
            self.since_check.add_value(_BEFORE, metric)
        roots = {self.titled(name): sums.root(name) for name in self.loss.quantities}
        return Checked(metric, {f"rmse_{name}": root for name, root in roots.items() if root is not None})

    def _validate(self, maker: BatchMaker, averaged: AbstractContextManager[None]) -> Running:
        assert self.found_valid is not None
        needed = {self.found_valid.first[field] for field in self.metric.fields() if field in self.found_valid.first}
        indices = sorted({*maker.frames.spread(self.config.validation_frames), *needed})
        plan = in_order(indices, n_atoms=maker.frames.n_atoms, **self._filling(maker))
        with averaged:
            return evaluate(self.metric, maker, plan, self.device, self.workers)

    def errors_since_row(self) -> dict[str, float | None]:
        """Training errors since the last row of the curve, by column."""
        return {f"rmse_{self.titled(name)}_train": self.since_row.root(name) for name in self.loss.quantities}

    def facts(self) -> dict[str, Any]:
        """Part of ``metrics.json`` that tells of the data and of the output bias."""
        bias = dict(zip(self.model.type_map, self.model.out_bias.tolist(), strict=True))
        facts = data_facts(self.frames, self.found, self.valid, self.found_valid)
        return facts | {f"{self.model.output}_bias": bias}

    def sums(self) -> dict[str, dict[str, tuple[float, int]]]:
        """Running means, for a checkpoint."""
        return {self.titled("row"): self.since_row.sums, self.titled("check"): self.since_check.sums}

    def restore(self, cursor: Cursor, sums: dict[str, dict[str, tuple[float, int]]]) -> None:
        """Go on from what a checkpoint kept."""
        self.sampler.cursor = cursor
        self.since_row, self.since_check = (Running(sums[self.titled(name)]) for name in ("row", "check"))


class Drawn(NamedTuple):
    """Place of a batch among those of all tasks."""

    task: int
    workers: int
    """Processes whose batches are of this task."""
    cursors: tuple[Cursor, ...]
    """Of the samplers of all tasks, behind the batch and those of other processes."""


class Stream:
    """Batches of all tasks in the order of the steps; which task a step is for follows from the seed and its number.

    With several processes, each draws a task, and all draw the batches of all, which are then divided among those that
    have the same task.

    Parameters
    ----------
    chances
        Of each task; they are divided by their sum.
    step
        Steps made before.
    accumulate
        Batches of a step.
    workers
        Processes that train together.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        chances: Sequence[float],
        seed: int,
        step: int,
        accumulate: int,
        workers: Workers = ALONE,
    ) -> None:
        self.tasks, self.seed, self.step, self.accumulate, self.workers = tasks, seed, step, accumulate, workers
        self.chances = np.array(chances, dtype=np.float64) / np.sum(chances)

    def __iter__(self) -> Iterator[tuple[tuple[int, list[int]], Drawn]]:
        """Task and frame indices of each batch, and its place."""
        step = self.step
        while True:
            chosen = self.choose(step)
            own = chosen[self.workers.rank]
            for _ in range(self.accumulate):
                drawn = [self.tasks[index].sampler.next_batch() for index in chosen]
                same = [batch for index, batch in zip(chosen, drawn, strict=True) if index == own]
                place = chosen[: self.workers.rank].count(own)
                batch = self.tasks[own].divided(same)[place]
                cursors = tuple(task.sampler.cursor for task in self.tasks)
                yield (own, batch), Drawn(own, len(same), cursors)
            step += 1

    def choose(self, step: int) -> list[int]:
        """Task of each process in the 0-based step."""
        number = self.workers.number
        if len(self.tasks) == 1:
            return [0] * number
        random = np.random.default_rng([self.seed, 3, step])
        return [int(index) for index in random.choice(len(self.tasks), number, p=self.chances)]

    def make(self, planned: tuple[int, list[int]]) -> Batch:
        """Make a batch of these frames of a task."""
        index, indices = planned
        return self.tasks[index].make(indices)
