"""The losses: what a training makes small, and the errors that it shows.

Every term is a sum over the rows that count and their number, so that terms of several batches add up exactly. Losses
that are sums by their definition count a batch as one.
"""

from __future__ import annotations

from typing import Any

from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.train.loss.base import Loss, Values
from dpsim.train.loss.energy import EnergyLoss
from dpsim.train.loss.population import PopulationLoss
from dpsim.train.loss.property import PropertyLoss
from dpsim.train.loss.tensor import DOSLoss, TensorLoss
from dpsim.train.loss.terms import Term, Terms, huber, weighted_sum
from dpsim.train.settings.loss import (
    DOSLossConfig,
    EnergyLossConfig,
    LossConfig,
    PopulationLossConfig,
    PropertyLossConfig,
    TensorLossConfig,
)

AnyLoss = Loss[Any, Any]
_KINDS: dict[type[Any], type[AnyLoss]] = {
    EnergyLossConfig: EnergyLoss,
    TensorLossConfig: TensorLoss,
    DOSLossConfig: DOSLoss,
    PropertyLossConfig: PropertyLoss,
    PopulationLossConfig: PopulationLoss,
}


def check_loss(config: LossConfig, output: str) -> None:
    """Refuse a loss that is for other outputs than the model's.

    Raises
    ------
    ConfigError
        Naming the loss that is for it.
    """
    if output not in config.outputs:
        (fitting,) = (kind for kind in _KINDS if output in kind.outputs)
        name = fitting.model_fields["type"].annotation.__args__[0]
        raise ConfigError(
            f"loss.type: {config.type} is for {' and '.join(config.outputs)}, and the model predicts {output}: "
            f"write `type: {name}`"
        )


def make_loss(config: LossConfig, model: Model) -> AnyLoss:
    """Loss of a training of a model."""
    return _KINDS[type(config)](config, model)


__all__ = ["AnyLoss", "Loss", "Term", "Terms", "Values", "check_loss", "huber", "make_loss", "weighted_sum"]
