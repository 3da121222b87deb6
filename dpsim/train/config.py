"""Settings of a training. No torch here: a declaration is checked without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.model.config import AnyModelConfig
from dpsim.train.settings.data import BatchSize, FrameFilter, Sampling, SystemSampling, size_of
from dpsim.train.settings.heads import HEADS_SETTINGS, HeadsSettings, check_heads
from dpsim.train.settings.learning_rate import CosineRate, ExponentialRate, LearningRateConfig, StableRate
from dpsim.train.settings.loss import (
    AtLeastZero,
    DOSLossConfig,
    EnergyLossConfig,
    LossConfig,
    PopulationLossConfig,
    PropertyLossConfig,
    Rate,
    TensorLossConfig,
)
from dpsim.train.settings.model import CustomModel, ModelSection, PresetModel
from dpsim.train.settings.optimizer import AdamConfig, KalmanConfig, MuonConfig, OptimizerConfig
from dpsim.train.settings.run import RUN_SETTINGS, RunSettings
from dpsim.train.settings.transfer import TransferSettings

Count = Annotated[int, Field(gt=0)]


class TrainConfig(TransferSettings, RunSettings, HeadsSettings):
    """A training: model, number of steps, and how the steps are made."""

    later: ClassVar[tuple[str, ...]] = (
        *TransferSettings.later, *RUN_SETTINGS, *HEADS_SETTINGS, "epochs", "accumulate", "frame_filter",
    )  # fmt: skip

    model: ModelSection | None = None
    """A preset by name, descriptor and fitting in full, or a model made of others (``type: zbl`` or ``linear``). None:
    the model that training starts from."""
    steps: Count | None = None
    """Steps in total. Raising it continues a finished training; the learning rate then decays over the new total."""
    epochs: Rate | None = None
    """Instead of `steps`: how often each frame is seen, on average of those that are seen least often."""
    batch_size: BatchSize = "auto:128"
    """Frames in a step, or ``auto:N``: as few frames as have N atoms together (``auto`` is ``auto:32``), ``max:N``: as
    many as have no more than N, ``filter:N``: the same without frames of more than N atoms, ``edges:N``: as many as
    have no more than N pairs of neighbours, each counted from both sides; memory and time go by them. Or a list with a
    number of frames for each system: the frames of a batch are then of one system, which `sampling` chooses, where
    ``frames`` gives each as often as it has batches. Of several processes that train together, each makes a batch."""
    accumulate: Count = 1
    """Batches of a step: they are gone through one after the other, and make the step of one batch of all of them."""
    sampling: Sampling = "frames"
    """Every frame is seen equally often, or every system (folder of the data), or systems have shares of their own."""
    frame_filter: FrameFilter | None = None
    """Frames that are left out of training and validation data."""
    learning_rate: LearningRateConfig = ExponentialRate()
    """Schedule of the learning rate."""
    loss: LossConfig = EnergyLossConfig()
    """What is made small."""
    optimizer: OptimizerConfig = AdamConfig()
    """How a step is made."""
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
        if not self.epochs_of_heads and (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "steps, or epochs instead of it, is missing"
                if self.steps is None
                else f"steps ({self.steps}) and epochs ({self.epochs:g}) exclude each other: give one of them"
            )
        if self.steps is not None:
            warmup = self.learning_rate.n_warmup(self.steps)
            if warmup > self.steps:
                raise ValueError(f"learning_rate.warmup_steps ({warmup}) must not exceed steps ({self.steps})")
        if self.epochs is not None and size_of(self.batch_size).rule == "edges":
            raise ValueError(f"epochs cannot be counted with batch_size: {self.batch_size}: give steps instead")
        if isinstance(self.optimizer, KalmanConfig):
            self._check_kalman()
        if self.recipe == "lora" and (self.zero or isinstance(self.optimizer, KalmanConfig)):
            what = f"zero: {self.zero}" if self.zero else "optimizer.type: LKF"
            raise ValueError(f"recipe: lora has few numbers to move, {what} is not made for it: leave it out")
        if self.zero == 3 and self.ema is not None:
            raise ValueError("ema keeps averages of all parameters, which zero: 3 gives back: write zero: 2")
        check_heads(self)
        return self

    def _check_kalman(self) -> None:
        """Refuse what makes no difference to a Kalman filter."""
        for name in ("learning_rate", "gradient_max_norm", "accumulate", "zero"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with optimizer.type: LKF: leave it out")
        others = [term for term in self.loss.active if term not in ("energy", "forces")]
        if not isinstance(self.loss, EnergyLossConfig) or others:
            raise ValueError(
                f"optimizer.type: LKF takes energies and forces only, found {', '.join(others) or self.loss.type}: "
                "switch the others off in the loss, or choose another optimizer"
            )

    @property
    def total_steps(self) -> int:
        """`steps` of a training whose epochs have been counted (`dpsim.train.start.length.with_steps`)."""
        if self.steps is None:
            raise ConfigError("epochs stand for a number of steps that depends on the data")
        return self.steps

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
    "AdamConfig",
    "CosineRate",
    "CustomModel",
    "DOSLossConfig",
    "EnergyLossConfig",
    "FrameFilter",
    "ExponentialRate",
    "KalmanConfig",
    "LearningRateConfig",
    "LossConfig",
    "ModelSection",
    "MuonConfig",
    "OptimizerConfig",
    "PopulationLossConfig",
    "PresetModel",
    "PropertyLossConfig",
    "StableRate",
    "SystemSampling",
    "TensorLossConfig",
    "TrainConfig",
    "resolve_model",
]
