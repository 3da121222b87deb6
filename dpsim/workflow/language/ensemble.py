"""``ensemble: N`` of a training: N stages that differ in their seed, and what is made of each of them in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dpsim.workflow.stage import MAX_MEMBERS, is_reference
from dpsim.workflow.stages import find_stage_type

AXIS: Final = "member"
"""How the number of a model is called in the names of tasks: ``fit@member=2``."""


def members(stages: Mapping[str, Any], around: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the stages that stand for several, with their number.

    These are trainings with ``ensemble: N``, and stages that make one thing of each model they are given (freeze,
    compress, test) where they refer to such a stage.

    Parameters
    ----------
    stages
        Plain values of the stages by name.
    around
        Those outside of a loop, whose names the stages may also use.
    """
    whole = {**(around or {}), **stages}
    known: dict[str, int] = {}
    for name in whole:
        _follow(name, whole, known)
    return {name: known[name] for name in stages if known[name] > 1}


def _follow(name: str, stages: Mapping[str, Any], known: dict[str, int]) -> None:
    """Find how many stages a declaration stands for, and all on the way from it to the training."""
    way: list[str] = []
    count = 1
    while name in stages and name not in way:
        if name in known:
            count = known[name]
            break
        way.append(name)
        value = _mapped(stages[name])
        if value is None:
            count = _own(stages[name])
            break
        name, _, output = value.partition(".")
        name = name.partition("@")[0]
        loop = stages.get(name)
        if isinstance(loop, dict) and loop.get("uses") == "loop":
            count = _carried(loop, output.partition(".")[0])
            break
    known.update(dict.fromkeys(way, count))


def _own(raw: Any) -> int:
    """Return the number of models of a training."""
    count = raw.get("ensemble", 1) if isinstance(raw, dict) and raw.get("uses") == "train" else 1
    valid = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_MEMBERS
    return int(count) if valid else 1


def _means_all(value: Any) -> bool:
    """Whether a plain value is a reference to all members of what it names."""
    return is_reference(value) and f"{AXIS}=" not in str(value)


def _mapped(raw: Any) -> str | None:
    """Return the reference whose models a stage takes one by one, if it means all members of what it names."""
    uses = raw.get("uses") if isinstance(raw, dict) else None
    stage_type = find_stage_type(uses) if isinstance(uses, str) else None
    value = raw.get(stage_type.maps) if stage_type is not None and stage_type.maps else None
    return str(value) if _means_all(value) else None


def _carried(loop: Mapping[str, Any], key: str) -> int:
    """Return how many models a name that a loop carries stands for at its end."""
    inner, following = loop.get("stages"), loop.get("next")
    value = following.get(key) if isinstance(following, dict) else None
    if not isinstance(inner, dict) or not _means_all(value):
        return 1
    plain = {name: raw for name, raw in inner.items() if not (isinstance(raw, dict) and raw.get("uses") == "loop")}
    return members(plain).get(str(value).partition("@")[0].partition(".")[0], 1)
