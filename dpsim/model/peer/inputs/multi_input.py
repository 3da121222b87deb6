"""Multi-task inputs of DeePMD-kit: each branch as an input of its own, and what they share (spec fittings.md §12)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsim.errors import ConfigError
from dpsim.model.multi_config import RANDOM
from dpsim.model.peer.inputs.loop import EPOCHS, STEPS

Tree = dict[str, Any]


@dataclass
class Branches:
    """What a multi-task input asks for."""

    trees: dict[str, Tree]
    """Of each branch, the input of a training of it alone."""
    shared: list[dict[str, Any]] = field(default_factory=list)
    """Parts that are shared, as `dpsim.model.multi_config.SharedPart`."""
    chances: dict[str, float] = field(default_factory=dict)
    """Of a step to be for a branch, where they are given."""
    aliases: dict[str, list[str]] = field(default_factory=dict)
    """Further names of the branches."""


@dataclass
class _Reference:
    """A part of a branch that stands in ``shared_dict``."""

    name: str
    level: int
    branch: str
    part: str
    """Path of the module in dpsim."""


def is_multi_task(tree: Mapping[str, Any]) -> bool:
    """Whether an input is one of several branches."""
    model = tree.get("model")
    return isinstance(model, Mapping) and "model_dict" in model


def split_branches(tree: Mapping[str, Any], where: str) -> Branches:
    """Take a multi-task input apart.

    Raises
    ------
    ConfigError
        Naming a key that is missing, unknown or means nothing in dpsim.
    """
    rest: Tree = copy.deepcopy(dict(tree))
    model, training = dict(rest.pop("model")), dict(rest.pop("training", {}))
    shared = _mapping(model.pop("shared_dict", {}), f"{where}: model.shared_dict")
    sections = _mapping(model.pop("model_dict"), f"{where}: model.model_dict")
    names = list(sections)
    if not names or RANDOM in names:
        raise ConfigError(f"{where}: model.model_dict: expected branches by name, none of them {RANDOM}")
    losses = _of_all(rest.pop("loss_dict", {}), names, f"{where}: loss_dict", needed=False)
    data = _of_all(training.pop("data_dict", {}), names, f"{where}: training.data_dict", needed=True)
    chances = _of_all(training.pop("model_prob", None) or {}, names, f"{where}: training.model_prob", needed=False)
    epochs = _epochs(training, chances, names, where)
    if rest.pop("loss", None):
        raise ConfigError(f"{where}: loss has no effect in a multi-task input: write loss_dict")
    references: list[_Reference] = []
    found = Branches({}, chances={name: float(value) for name, value in chances.items()})
    for name in names:
        branch = {**copy.deepcopy(model), **_mapping(sections[name], f"{where}: model.model_dict.{name}")}
        found.aliases[name] = list(branch.pop("model_branch_alias", None) or [])
        branch.pop("info", None)
        resolved = _resolved(branch, shared, name, f"{where}: model.model_dict.{name}", references)
        own = {**training, **_mapping(data[name], f"{where}: training.data_dict.{name}")}
        own |= {EPOCHS[0]: epochs[name]} if name in epochs else {}
        one = {**rest, "model": resolved, "training": own}
        found.trees[name] = one if name not in losses else {**one, "loss": losses[name]}
    found.shared = _groups(references, where)
    return found


def _epochs(training: Tree, chances: Tree, names: list[str], where: str) -> Tree:
    """Epochs of each branch, where the length is given by them."""
    epochs = _of_all(
        training.pop("num_epoch_dict", None) or {}, names, f"{where}: training.num_epoch_dict", needed=False
    )
    alone = next((key for key in EPOCHS if training.get(key) is not None), None)
    if alone is not None:
        raise ConfigError(f"{where}: training.{alone} is for a single task: write num_epoch_dict")
    if epochs and (chances or any(training.get(key) is not None for key in STEPS)):
        other = "model_prob" if chances else "numb_steps"
        raise ConfigError(f"{where}: training: num_epoch_dict and {other} exclude each other: give one of them")
    return epochs


def _mapping(node: Any, where: str) -> Tree:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: {node!r}: a section is expected")
    return dict(node)


def _of_all(node: Any, names: list[str], where: str, *, needed: bool) -> Tree:
    """A section with one entry for each branch."""
    section = _mapping(node, where)
    unknown = [name for name in section if name not in names]
    missing = [name for name in names if name not in section] if needed or section else []
    if unknown or missing:
        what = f"there is no branch {unknown[0]!r}" if unknown else f"the branch {missing[0]!r} is missing"
        raise ConfigError(f"{where}: {what} (branches: {', '.join(names)})")
    return section


def _resolved(branch: Tree, shared: Tree, name: str, where: str, references: list[_Reference]) -> Tree:
    """Section of a branch with what it refers to in place."""
    result = dict(branch)
    for key, part in (("type_map", ""), ("descriptor", "descriptor"), ("fitting_net", "fitting")):
        if isinstance(branch.get(key), str):
            result[key] = _looked_up(branch[key], shared, name, part, f"{where}.{key}", references)
    descriptor = result.get("descriptor")
    members = descriptor.get("list") if isinstance(descriptor, Mapping) else None
    if isinstance(descriptor, Mapping) and isinstance(members, list):
        result["descriptor"] = {
            **descriptor,
            "list": [
                _looked_up(one, shared, name, f"descriptor.members.{k}", f"{where}.descriptor.list[{k}]", references)
                if isinstance(one, str)
                else one
                for k, one in enumerate(members)
            ],
        }
    return result


def _looked_up(text: str, shared: Tree, branch: str, part: str, where: str, references: list[_Reference]) -> Any:
    name, _, level = text.partition(":")
    if name not in shared:
        raise ConfigError(f"{where}: {text!r}: shared_dict has no {name!r} (it has {', '.join(shared) or 'nothing'})")
    if level and not level.isdecimal():
        raise ConfigError(f"{where}: {text!r}: the level of sharing is a number")
    if part:
        references.append(_Reference(name, int(level or 0), branch, part))
    return copy.deepcopy(shared[name])


def _groups(references: list[_Reference], where: str) -> list[dict[str, Any]]:
    """Parts with the branches that share them: all of a part at level 0, its type embedding at level 1."""
    by_name: dict[str, list[_Reference]] = {}
    for reference in references:
        by_name.setdefault(reference.name, []).append(reference)
    found = []
    for name, same in by_name.items():
        parts = {reference.part for reference in same}
        if len(parts) > 1:
            raise ConfigError(f"{where}: model.shared_dict.{name} stands in different places of the branches")
        (part,) = parts
        highest = max(reference.level for reference in same)
        if highest > (0 if part == "fitting" else 1):
            raise ConfigError(f"{where}: model.shared_dict.{name}: level {highest} of sharing is not known")
        whole = [reference.branch for reference in same if reference.level == 0]
        table = [*whole[:1], *(reference.branch for reference in same if reference.level == 1)]
        found += [{"part": part, "heads": whole}] if len(whole) > 1 else []
        found += [{"part": f"{part}.type_embedding", "heads": table}] if len(table) > 1 else []
    return found
