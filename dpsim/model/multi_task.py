"""`MultiTaskModel`: several heads, parts of which are the same (spec fittings.md §12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dpsim.config import first_problem
from dpsim.errors import ConfigError, ModelError
from dpsim.fittings.network import FittingNetwork
from dpsim.model.base import Model
from dpsim.model.multi_config import HeadConfig, MultiTaskConfig, SharedPart

OF_A_HEAD = ("case_embedding", "bias_by_type")
"""Buffers of a fitting net that are never shared."""


class MultiTaskModel(nn.Module):
    """Models by name. Shared parts are one module, and have one place in the state: that in the first of their heads.

    Parameters
    ----------
    seed
        Of the parameters.
    """

    def __init__(self, config: MultiTaskConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.heads = nn.ModuleList(_head(head, seed + k) for k, head in enumerate(config.heads.values()))
        _tell_apart(config, self.heads)
        for group in sorted(config.shared, key=lambda group: group.part.count(".")):
            self._share(group)
        self.aliases = self._aliases()
        """Names of the state that mean another's tensor."""

    @property
    def type_map(self) -> tuple[str, ...]:
        """Chemical symbols by type."""
        return self.config.type_map

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(iter(self.members.values())).device

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits."""
        return self.config.precision

    @property
    def members(self) -> dict[str, Model]:
        """Heads by name; their parameters are those of the whole."""
        return {name: head for name, head in zip(self.config.heads, self.heads, strict=True) if isinstance(head, Model)}

    def head(self, name: str | None, where: str = "the model") -> Model:
        """One head, by its name or an alias.

        Raises
        ------
        ModelError
            If there is none of this name, or several and none is named; `where` names the model.
        """
        return self.members[head_named(self.config, name, where)]

    def _share(self, group: SharedPart) -> None:
        """Let all heads of a group have the module of the first."""
        first, *others = (self.members[name] for name in group.heads)
        base = _part(first, group.part)
        for head in others:
            module = _part(head, group.part)
            shapes = [{name: tuple(t.shape) for name, t in one.state_dict().items()} for one in (base, module)]
            if shapes[0] != shapes[1]:
                raise ConfigError(f"shared: {group.part} has different shapes in {' and '.join(group.heads)}")
            if isinstance(base, FittingNetwork):
                assert isinstance(module, FittingNetwork)
                _share_fitting(module, base)
            else:
                head.set_submodule(group.part, base)

    def _aliases(self) -> dict[str, str]:
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, tensor in super().state_dict(keep_vars=True).items():
            here = first.setdefault(id(tensor), name)
            if here != name:
                found[name] = here
        return found

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Parameters and buffers, those that are shared once."""
        state = super().state_dict(*args, **options)
        return {name: tensor for name, tensor in state.items() if name not in self.aliases}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take what `state_dict` gives."""
        full = {**state, **{name: state[here] for name, here in self.aliases.items() if here in state}}
        return super().load_state_dict(full, strict, assign)


def head_named(config: MultiTaskConfig, name: str | None, where: str) -> str:
    """Name of a head from its name or an alias.

    Raises
    ------
    ModelError
        As `MultiTaskModel.head`.
    """
    names = list(config.heads)
    if name is None:
        if len(names) == 1:
            return names[0]
        raise ModelError(f"{where} has several heads: choose one head of {', '.join(names)}")
    for key, head in config.heads.items():
        if name == key or name in head.aliases:
            return key
    raise ModelError(f"{where} has no head {name!r}: choose one of {', '.join(names)}")


def _head(head: HeadConfig, seed: int) -> Model:
    model: Model = head.model.build(seed)
    return model


def _tell_apart(config: MultiTaskConfig, heads: nn.ModuleList) -> None:
    """Give each fitting net its place among the sorted names as the vector that tells heads apart."""
    order = sorted(config.heads)
    for name, head in zip(config.heads, heads, strict=True):
        for module in head.modules():
            if isinstance(module, FittingNetwork) and module.config.dim_case_embd == len(order):
                module.case_embedding.zero_()
                module.case_embedding[order.index(name)] = 1.0


def _part(model: Model, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ConfigError(f"shared: a {model.config.type} model has no part {path!r}") from None


def _share_fitting(module: FittingNetwork, base: FittingNetwork) -> None:
    module.networks = base.networks
    for name in base._buffers:
        if name not in OF_A_HEAD and name not in base._non_persistent_buffers_set:
            module._buffers[name] = base._buffers[name]


def gather(heads: Mapping[str, Model], aliases: Mapping[str, Sequence[str]] | None = None) -> MultiTaskModel:
    """One model of several; parts whose numbers are the same in several heads become shared.

    Parameters
    ----------
    aliases
        Further names of the heads.

    Raises
    ------
    ModelError
        If the heads have different elements or names that cannot be.
    """
    others = aliases or {}
    settings = {name: {"model": head.config, "aliases": tuple(others.get(name, ()))} for name, head in heads.items()}
    try:
        config = MultiTaskConfig.model_validate({"heads": settings, "shared": _common(heads)})
    except ValidationError as error:
        raise ModelError(f"the heads cannot be in one model ({first_problem(error)})") from None
    model = config.build()
    for name, head in model.members.items():
        head.load_state_dict(heads[name].state_dict())
    return model


def _common(heads: Mapping[str, Model]) -> list[dict[str, Any]]:
    """Groups of heads with equal parts."""
    found: list[dict[str, Any]] = []
    whole: dict[str, str] = {}
    for part in ("descriptor", "descriptor.type_embedding", "fitting"):
        groups: list[list[str]] = []
        for name, head in heads.items():
            if not _has(head, part) or (part == "descriptor.type_embedding" and whole.get(name, name) != name):
                continue
            mine = next((group for group in groups if _equal(heads[group[0]], head, part)), None)
            if mine is None:
                groups.append([name])
            else:
                mine.append(name)
        for group in groups:
            if len(group) > 1:
                found.append({"part": part, "heads": group})
            if part == "descriptor":
                whole |= dict.fromkeys(group, group[0])
    return found


def _has(model: Model, part: str) -> bool:
    try:
        model.get_submodule(part)
    except AttributeError:
        return False
    return True


def _equal(a: Model, b: Model, part: str) -> bool:
    top = part.partition(".")[0]
    if part == top and getattr(a.config, top, None) != getattr(b.config, top, None):
        return False
    one, other = (model.get_submodule(part).state_dict() for model in (a, b))
    names = [name for name in one if name not in OF_A_HEAD]
    return names == [name for name in other if name not in OF_A_HEAD] and all(_same(one[n], other[n]) for n in names)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
