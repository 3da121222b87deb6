"""From settings and data to what the loop works on: tasks, and the model that is made once the data are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.config import TrainConfig
from dpsim.train.data_config import size_of
from dpsim.train.electrostatics import take_out_electrostatics
from dpsim.train.finetune import FineTuning, adapted_model, starting_model
from dpsim.train.frames import DataSource, FrameSet
from dpsim.train.length import with_steps
from dpsim.train.resume import Resume
from dpsim.train.setup import ModelSource, new_model, target_of, type_map_for
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


def frame_sets(
    config: TrainConfig,
    train_data: DataSource,
    valid_data: DataSource | None,
    type_map: Sequence[str] | None,
    property_name: str,
    head: str = "",
) -> tuple[FrameSet, FrameSet | None]:
    """Frames of training and validation."""
    only, size, of = config.frame_filter, size_of(config.batch_size), f" of {head}" if head else ""
    frames = FrameSet(train_data, type_map, property_name, only=only, size=size, what=f"training{of}")
    if valid_data is None:
        return frames, None
    what = f"validation{of}"
    return frames, FrameSet(valid_data, frames.type_map, property_name, only=only, size=size, what=what)


def prepare(
    config: TrainConfig,
    train_data: HeadData,
    valid_data: HeadData | None,
    type_map: Sequence[str] | None,
    resume: Resume | None,
    init_model: ModelSource | None,
    old_data: DataSource | None,
) -> Prepared:
    """Make a training of a single head ready; arguments and errors are those of `dpsim.train.trainer.train`."""
    if isinstance(train_data, Mapping) or isinstance(valid_data, Mapping):
        raise ConfigError("data by head belong to a training with heads: give heads, or data alone")
    initial = starting_model(init_model, config)
    target = target_of(config, resume, initial)
    names = type_map_for(config, resume, initial, type_map)
    frames, valid = frame_sets(config, train_data, valid_data, names, target.property_name)
    take_out_electrostatics(config, resume, initial, frames, valid)
    tuning = FineTuning.of(config, initial, old_data, frames)
    config = with_steps(config, frames)
    task = Task("", config, frames, valid, target.output)

    def build() -> Model:
        if config.recipe == "finetune":
            assert initial is not None
            return adapted_model(config, initial, frames, task.found)
        return initial if initial is not None else new_model(config, frames, task.found)

    return Prepared(config, [task], [1.0], initial, build, tuning)
