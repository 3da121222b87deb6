"""Settings of how a training is run and watched, and of what it keeps. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dpsim.config import Config, Walltime

Compile = Literal["auto"] | bool


class RunSettings(Config):
    """Averages of the parameters, arithmetic, the choice of the best model, and what is written beside the models."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the parameters, for example 0.999. The averages are then what is
    validated and what the model files hold; training itself goes on from the parameters."""
    matrix_products: Literal["full", "tf32", "bf16"] = "full"
    """How networks in float32 multiply on a GPU of compute capability 8.0 or more: ``tf32`` with 11, ``bf16`` with 8
    bits; what is added up stays in float32, and validation of ``bf16`` is in full."""
    validation_metric: Annotated[str, Field(pattern=r"^(loss|[a-z_]+:(mae|rmse))$")] = "loss"
    """What the best model has least of on the validation data: ``loss`` with its last weights, or an error such as
    ``energy:mae``, ``forces:rmse``; energies and virials per atom."""
    walltime: Walltime | None = None
    """Longest time of one run, s: the training is saved and stopped before, and the same command goes on."""
    compile: Compile = "auto"
    """Whether what a step computes with the model is compiled before the first one, which takes a minute or two and is
    kept for the next trainings of such a model: ``auto``: where that pays, which is in long trainings on a CPU."""
    zero: Literal[0, 1, 2, 3] = 0
    """What several processes divide instead of each having all of it: 1: the state of the optimizer, 2: also the
    gradients, 3: also the parameters outside of the passes through the model."""
    tensorboard: bool = False
    """Write the learning curve for TensorBoard as well, into the folder ``tensorboard``."""
    statistics_file: Annotated[str, Field(min_length=1)] | None = None
    """JSON file that keeps output bias and scales, so that other trainings of the same model settings on the same data
    (and of the same pretrained model) need not take them again; it is made where it is missing."""


RUN_SETTINGS = tuple(RunSettings.model_fields)
NOT_IN_RESULT = ("walltime", "tensorboard", "statistics_file", "compile", "zero")
"""Settings that do not change the models, but for rounding."""
