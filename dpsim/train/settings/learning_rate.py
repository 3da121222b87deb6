"""Settings of the learning rate. No torch here: a declaration is checked without it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dpsim.config import Config

Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
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
    scale_by_worker: Literal["linear", "sqrt", "none"] = "none"
    """Multiply all rates by the number of processes that train together, or by its root."""

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

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later, where it has no effect: cache keys of older trainings stay."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if (key, value) != ("scale_by_worker", "none")}

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


class StableRate(_LearningRate):
    """Warm-up, then `start` for most of the training, then a short decay to the final rate (``wsd``)."""

    type: Literal["wsd"] = "wsd"
    decay_phase_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Length of the decay as a fraction of all steps."""
    decay_type: Literal["inverse_linear", "cosine", "linear"] = "inverse_linear"
    """What falls: the rate along a line or half a cosine wave, or its inverse rises along a line."""


AnyRate = ExponentialRate | CosineRate | StableRate


def _typed(value: Any) -> Any:
    return {"type": "exp", **value} if isinstance(value, dict) and "type" not in value else value


LearningRateConfig = Annotated[
    Annotated[AnyRate, Field(discriminator="type")], BeforeValidator(_typed, json_schema_input_type=AnyRate)
]
