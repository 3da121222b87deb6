"""Which parameters of a model are trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dpsim.errors import ConfigError
from dpsim.fittings.network import FittingNetwork
from dpsim.model.base import Model
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.config import TrainConfig
from dpsim.train.settings.transfer import RANDOM


def freeze_parts(model: Model | MultiTaskModel, parts: Sequence[str]) -> None:
    """Keep parts of a model from being trained; of several heads those of all, or of the head that is named first.

    Raises
    ------
    ConfigError
        If the model has no part of such a name with parameters, or nothing is left to train.
    """
    for part in parts:
        for parameter in parameters_of(model, part, "frozen"):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"frozen: {', '.join(parts)}: nothing is left to train")


def restrict(model: Model | MultiTaskModel, config: TrainConfig) -> list[nn.Parameter]:
    """Keep all from being trained that is neither moved by a product nor trained whole.

    Parameters
    ----------
    model
        Its frozen parts stay frozen.

    Returns
    -------
    list
        Matrices to be moved by products.

    Raises
    ------
    ConfigError
        If the model has no part named in ``lora.whole``, or no matrix is large enough for the rank.
    """
    rank = config.lora.rank
    whole = {id(p) for part in config.lora.whole for p in parameters_of(model, part, "lora.whole")}
    if config.head == RANDOM:
        fittings = [module for module in model.modules() if isinstance(module, FittingNetwork)]
        whole |= {id(p) for fitting in fittings for p in fitting.parameters()}
    factored = []
    for p in model.parameters():
        if not p.requires_grad or id(p) in whole:
            continue
        if p.ndim < 2:
            p.requires_grad_(False)
        elif p.shape[-2] * p.shape[-1] > rank * (p.shape[-2] + p.shape[-1]):
            factored.append(p)
    if not factored:
        raise ConfigError(
            f"lora.rank: {rank} limits no matrix of the model that is trained: expected less than rows * columns "
            "/ (rows + columns) of one of them: lower it, or write recipe: finetune"
        )
    return factored


def parameters_of(model: Model | MultiTaskModel, part: str, setting: str) -> list[nn.Parameter]:
    """Parameters of a part of a model; of several heads those of all, or of the head that is named first.

    Parameters
    ----------
    setting
        Where the part is named, for the message.

    Raises
    ------
    ConfigError
        If the model has no part of such a name with parameters.
    """
    found = [p for one, path in _places(model, part) for p in _below(one, path)]
    if not found:
        members = model.members.values() if isinstance(model, MultiTaskModel) else [model]
        names = [name for one in members for name, _ in one.named_parameters()]
        known = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}
        raise ConfigError(
            f"{setting}: {part!r} is no part of the model that is trained: there are for example "
            f"{', '.join(sorted(known))}"
        )
    return found


def _places(model: Model | MultiTaskModel, part: str) -> list[tuple[nn.Module, str]]:
    """Models in which a part is looked for, and its path there."""
    if not isinstance(model, MultiTaskModel):
        return [(model, part)]
    for name, head in model.members.items():
        if part == name or part.startswith(f"{name}."):
            return [(head, part[len(name) + 1 :])]
    return [(one, part) for one in model.members.values()]


def _below(model: nn.Module, path: str) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if not path or name == path or name.startswith(f"{path}.")]
