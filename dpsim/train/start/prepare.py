"""From settings and data to what the loop works on: tasks, and the model that is made once the data are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.checkpoint import any_from_state
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.batches.frames import DataSource, FrameSet
from dpsim.train.config import TrainConfig
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.records.resume import Resume
from dpsim.train.settings.data import size_of
from dpsim.train.start.electrostatics import take_out_electrostatics
from dpsim.train.start.finetune import FineTuning, adapted_model, starting_model
from dpsim.train.start.length import with_steps
from dpsim.train.start.setup import ModelSource, new_model, target_of, type_map_for
from dpsim.train.task import Task

HeadData = DataSource | Mapping[str, DataSource]
"""Data of a training; of several heads by their names."""


@dataclass(frozen=True)
class Prepared:
    """What a training consists of."""

    config: TrainConfig
    """With its number of steps."""
    tasks: Sequence[Task]
    chances: Sequence[float]
    """Of a step to be for each task; they need not sum to 1."""
    initial: Model | MultiTaskModel | None
    """Model to start from, as it was given."""
    build: Callable[[], Model | MultiTaskModel]
    """Makes the model with which a new training begins."""
    tuning: FineTuning | None = None


def same_model(build: Callable[[], Model | MultiTaskModel], workers: Workers) -> Model | MultiTaskModel:
    """Model with which a training begins: one process makes it, all have it."""
    if workers.alone:
        return build()
    model = build() if workers.first else None

    def made() -> tuple[dict[str, Any], dict[str, Tensor]]:
        assert model is not None
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return model.config.model_dump(mode="json"), state

    config, state = workers.once(made)
    return model if model is not None else any_from_state(config, state, "the model of the first process")


def frame_sets(
    config: TrainConfig,
    train_data: DataSource,
    valid_data: DataSource | None,
    type_map: Sequence[str] | None,
    property_name: str,
    head: str = "",
    workers: Workers = ALONE,
) -> tuple[FrameSet, FrameSet | None]:
    """Frames of training and validation."""
    of = f" of {head}" if head else ""
    same: dict[str, Any] = {"only": config.frame_filter, "size": size_of(config.batch_size), "workers": workers}
    frames = FrameSet(train_data, type_map, property_name, what=f"training{of}", **same)
    if valid_data is None:
        return frames, None
    return frames, FrameSet(valid_data, frames.type_map, property_name, what=f"validation{of}", **same)


def prepare(
    config: TrainConfig,
    train_data: HeadData,
    valid_data: HeadData | None,
    type_map: Sequence[str] | None,
    resume: Resume | None,
    init_model: ModelSource | None,
    old_data: DataSource | None,
    workers: Workers = ALONE,
) -> Prepared:
    """Make a training of a single head ready; arguments and errors are those of `dpsim.train.trainer.train`."""
    if isinstance(train_data, Mapping) or isinstance(valid_data, Mapping):
        raise ConfigError("data by head belong to a training with heads: give heads, or data alone")
    initial = starting_model(init_model, config)
    target = target_of(config, resume, initial)
    names = type_map_for(config, resume, initial, type_map)
    frames, valid = frame_sets(config, train_data, valid_data, names, target.property_name, workers=workers)
    take_out_electrostatics(config, resume, initial, frames, valid)
    tuning = FineTuning.of(config, initial, old_data, frames) if workers.first else None
    config = with_steps(config, frames, workers.number)
    task = Task("", config, frames, valid, target.output, workers)

    def build() -> Model:
        if config.tunes:
            assert initial is not None
            return adapted_model(config, initial, frames, task.found)
        return initial if initial is not None else new_model(config, frames, task.found)

    return Prepared(config, [task], [1.0], initial, build, tuning)
