"""What a reference means: a stage, one of the same iteration, or what a loop carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from dpsim.workflow.language.loops import Loop
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.stage import Files


class Target(NamedTuple):
    """What a reference means."""

    stage: str
    """Name of the stage among those that are planned, with loop and iteration if it is an inner one."""
    text: str
    """The reference with that name."""
    shown: str
    """The stage as it is called in the file."""


def resolve(
    loops: Mapping[str, Loop], text: str, task: Task | None = None, seen: frozenset[tuple[str, str, int]] = frozenset()
) -> Target | Files | None:
    """Return what a reference means: to a stage, to one of the same iteration, or to what a loop carries.

    Parameters
    ----------
    task
        Where the reference stands; None for what is outside of all loops.

    Returns
    -------
    Target, Files or None
        None for what loops hand each other in a circle.
    """
    name = text.partition("@")[0].partition(".")[0]
    rest = text[len(name) :]
    home = loops.get(task.loop) if task is not None else None
    loop = loops.get(name)
    if loop is not None and rest.startswith("."):
        key, _, tail = rest[1:].partition(".")
        if key in loop.config.carry:
            inside = task is not None and home is loop
            iteration = task.iteration if task is not None and inside else loop.iteration + 1
            return _carried(loops, loop, key, iteration, tail, seen)
    if home is not None and task is not None and name in home.config.stages:
        stage = home.key(task.iteration, name)
        return Target(stage, stage + rest, name)
    return Target(name, text, name)


def _carried(
    loops: Mapping[str, Loop], loop: Loop, key: str, iteration: int, tail: str, seen: frozenset[tuple[str, str, int]]
) -> Target | Files | None:
    """Return what a carried name stands for at the beginning of an iteration."""
    if (loop.name, key, iteration) in seen:
        return None
    seen = seen | {(loop.name, key, iteration)}
    if iteration > 1 and key in loop.config.next:
        earlier = replace(loop.template[0], iteration=iteration - 1)
        found = resolve(loops, loop.config.next[key], earlier, seen)
    else:
        value = loop.config.carry[key]
        found = value if isinstance(value, Files) else resolve(loops, value, None, seen)
    if tail and isinstance(found, Target):
        return found._replace(text=f"{found.text}.{tail}")
    return found
