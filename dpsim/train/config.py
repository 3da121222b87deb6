"""Settings of a training. No torch here: a declaration is checked without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from dpsim.config import Config, first_problem
from dpsim.errors import ConfigError
from dpsim.model.config import AnyModelConfig
from dpsim.train.loss_config import (
    AtLeastZero,
    DOSLossConfig,
    EnergyLossConfig,
    LossConfig,
    PopulationLossConfig,
    PropertyLossConfig,
    Rate,
    TensorLossConfig,
)
from dpsim.train.model_section import CustomModel, ModelSection, PresetModel

Count = Annotated[int, Field(gt=0)]
Factor = Annotated[float, Field(ge=0, le=1)]


class _LearningRate(Config):
    """What all schedules share; step counts start at 0."""

    start: Rate = 1e-3
    """Learning rate after the warm-up."""
    stop: Rate | None = None
    """Learning rate at the last step. Neither `stop` nor `stop_ratio`: 1 % of `start`."""
    stop_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """`stop` as a fraction of `start`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear growth at the beginning."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """`warmup_steps` as a fraction of all steps."""
    warmup_start_factor: Factor = 0.0
    """Learning rate of the first warm-up step, as a fraction of `start`."""

    @model_validator(mode="after")
    def _check(self) -> _LearningRate:
        if self.stop is not None and self.stop_ratio is not None:
            raise ValueError(f"stop ({self.stop}) and stop_ratio ({self.stop_ratio}) exclude each other: give one")
        if self.stop is not None and self.stop > self.start:
            raise ValueError(f"stop ({self.stop}) must not exceed start ({self.start})")
        if self.warmup_steps and self.warmup_ratio is not None:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) and warmup_ratio ({self.warmup_ratio}) exclude each other"
            )
        if self.warmup_start_factor and not self.warmup_steps and not self.warmup_ratio:
            raise ValueError("warmup_start_factor has no effect without warmup_steps or warmup_ratio: give one of them")
        return self

    @property
    def final(self) -> float:
        """Learning rate towards which the schedule decays."""
        return self.stop if self.stop is not None else self.start * (self.stop_ratio or 0.01)

    def n_warmup(self, steps: int) -> int:
        """Warm-up steps of a training with this many steps."""
        return self.warmup_steps if self.warmup_ratio is None else int(self.warmup_ratio * steps)


class ExponentialRate(_LearningRate):
    """``start · rate^floor(t / decay_steps)``, never below the final rate."""

    type: Literal["exp"] = "exp"
    decay_steps: Count = 5000
    """Steps between two reductions; 100 or fewer are taken where it is not less than the number of steps."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor of one reduction; by default such that the final rate is reached at the last step."""
    smooth: bool = False
    """Reduce a little at every step instead of every `decay_steps`."""


class CosineRate(_LearningRate):
    """Half a cosine wave from `start` to the final rate."""

    type: Literal["cosine"] = "cosine"


def _typed(value: Any) -> Any:
    return {"type": "exp", **value} if isinstance(value, dict) and "type" not in value else value


LearningRateConfig = Annotated[
    Annotated[ExponentialRate | CosineRate, Field(discriminator="type")],
    BeforeValidator(_typed, json_schema_input_type=ExponentialRate | CosineRate),
]


class OptimizerConfig(Config):
    """Adam, with weight decay in the gradient (``Adam``) or apart from it (``AdamW``)."""

    type: Literal["Adam", "AdamW"] = "AdamW"
    """Which of the two."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Rate = 1e-8
    """Added to the denominator."""
    weight_decay: AtLeastZero | None = None
    """By default 0 for ``Adam`` and 0.001 for ``AdamW``."""

    @property
    def decay(self) -> float:
        """`weight_decay` with its default filled in."""
        return self.weight_decay if self.weight_decay is not None else {"Adam": 0.0, "AdamW": 1e-3}[self.type]


def _batch_size(value: Any) -> Any:
    if value == "auto":
        return "auto:32"
    number = value.removeprefix("auto:") if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not (number.isdecimal() and int(number) > 0) or value == number:
        raise ValueError(f"{value!r} is no batch size: write a number of frames, or auto:N for a number of atoms")
    return value


class TrainConfig(Config):
    """A training: model, number of steps, and how the steps are made."""

    model: ModelSection | None = None
    """A preset by name, descriptor and fitting in full, or a model made of others (``type: zbl`` or ``linear``). None:
    the model that training starts from."""
    steps: Count
    """Steps in total. Raising it continues a finished training; the learning rate then decays over the new total."""
    batch_size: Annotated[int | str, BeforeValidator(_batch_size)] = "auto:128"
    """Frames in a step, or ``auto:N``: as few frames as have N atoms together (``auto`` is ``auto:32``)."""
    sampling: Literal["frames", "systems"] = "frames"
    """Every frame is seen equally often, or every system (folder of the data)."""
    learning_rate: LearningRateConfig = ExponentialRate()
    """Schedule of the learning rate."""
    loss: LossConfig = EnergyLossConfig()
    """What is made small."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How a gradient becomes a step."""
    gradient_max_norm: AtLeastZero = 5.0
    """Gradients longer than this are shortened to it; 0: never."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of the initial parameters and of the order of the frames."""
    precision: Literal["float32", "float64"] | None = None
    """Floating-point type of descriptor and fitting, instead of what the model says. Energies are always float64."""
    validate_every: Count = 100
    """Steps between two evaluations of the validation data, which choose the best model."""
    validation_frames: Count | None = None
    """Evaluate only so many validation frames, evenly spaced; None: all."""
    log_every: Count = 20
    """Steps between two rows of the learning curve; training errors are averages since the last row."""
    checkpoint_every: Count = 500
    """Steps between two checkpoints; one is always written at the end."""
    keep_checkpoints: Count = 3
    """Newest checkpoints that are kept."""

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        warmup = self.learning_rate.n_warmup(self.steps)
        if warmup > self.steps:
            raise ValueError(f"learning_rate.warmup_steps ({warmup}) must not exceed steps ({self.steps})")
        return self

    @property
    def atoms_per_batch(self) -> int | None:
        """N of ``auto:N``; None if the batch size counts frames."""
        return int(self.batch_size.partition(":")[2]) if isinstance(self.batch_size, str) else None

    @classmethod
    def tiny(cls) -> TrainConfig:
        """Smallest instance, for tests."""
        return cls(model=CustomModel.tiny(), steps=4, batch_size=2, log_every=1, validate_every=2, checkpoint_every=2)


def resolve_model(config: TrainConfig, type_map: Sequence[str]) -> AnyModelConfig:
    """Complete settings of the model that a training asks for.

    Parameters
    ----------
    type_map
        Chemical symbols by type.

    Raises
    ------
    ConfigError
        If the training names no model, or the settings contradict each other.
    """
    if config.model is None:
        raise ConfigError(
            "model: neither settings nor a model to start from are given: write for example `model: dpa3-small`"
        )
    try:
        return config.model.resolve(tuple(type_map), config.precision)
    except ValidationError as error:
        raise ConfigError(first_problem(error, "model")) from None


__all__ = [
    "CosineRate",
    "CustomModel",
    "DOSLossConfig",
    "EnergyLossConfig",
    "ExponentialRate",
    "LearningRateConfig",
    "LossConfig",
    "ModelSection",
    "OptimizerConfig",
    "PopulationLossConfig",
    "PresetModel",
    "PropertyLossConfig",
    "TensorLossConfig",
    "TrainConfig",
    "resolve_model",
]
