"""A workflow for other programs to run: the call of dpsim, what all of it needs, and its tasks as a graph."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpsim.errors import ConfigError
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.stage import Resources

LEAST_CORES: Final = 4
"""Cores that are asked for where no stage wants more."""
DAY_S: Final = 86400.0
"""Time that is asked for where no stage says how long it takes, s."""


@dataclass(frozen=True)
class Needs:
    """What one machine must have so that every stage can run on it."""

    cpus: int
    ranks: int
    gpus: int
    memory: float | None
    """Bytes; None if no stage says."""
    walltime: float
    """s"""
    queue: str | None = None
    lines: tuple[str, ...] = ()


def needs_of(plan: Plan, *, cpus: int | None = None, walltime: float | None = None) -> Needs:
    """Return what a whole workflow needs in one allocation.

    Parameters
    ----------
    cpus
        Cores that are to be used; by default as many as the widest stage asks for.
    walltime
        s; by default that of the stages that wait for each other, one after the other.

    Raises
    ------
    ConfigError
        If a stage asks for several nodes, or stages ask for different queues.
    """
    asked = {name: plan.workflow.tasks[name].resources for name in plan.order}
    for name, one in asked.items():
        if (one.nodes or 1) > 1:
            raise ConfigError(
                f"stage {name!r} asks for {one.nodes} nodes, but all stages share one here: "
                "lower it, or run the workflow with a profile whose executor is a cluster"
            )
    queues = sorted({queue for one in asked.values() if (queue := one.queue or one.partition)})
    if len(queues) > 1:
        raise ConfigError(f"stages ask for the queues {', '.join(queues)}, but one job has one: name the same in all")
    ranks = max((one.ranks or plan.workflow.tasks[name].config.wanted().ranks or 1) for name, one in asked.items())
    widest = max([LEAST_CORES, ranks, *(one.cpus or 1 for one in asked.values())])
    cores = cpus or plan.workflow.slots.cpu or widest
    lines = dict.fromkeys(line for one in asked.values() for line in one.lines or ())
    return Needs(
        cpus=cores,
        ranks=min(ranks, cores),
        gpus=max(one.gpus or 0 for one in asked.values()),
        memory=max((one.memory for one in asked.values() if one.memory is not None), default=None),
        walltime=walltime or longest_path(plan, asked) or DAY_S,
        queue=queues[0] if queues else None,
        lines=tuple(lines),
    )


def longest_path(plan: Plan, asked: dict[str, Resources]) -> float:
    """Return the time of the stages that wait for each other, as far as they say how long they take, s."""
    ends: dict[str, float] = {}
    for name in plan.order:
        before = max((ends.get(need, 0.0) for need in plan.needs(name)), default=0.0)
        repeated = plan.workflow.loops[name].config.max_iterations - 1 if plan.is_open(name) else 0
        ends[name] = before + (asked[name].walltime or 0.0)
        if repeated:
            inner = [one for one in plan.order if plan.workflow.tasks[one].loop == name]
            start = min((ends[one] - (asked[one].walltime or 0.0) for one in inner), default=before)
            ends[name] += repeated * (before - start)
    return max(ends.values(), default=0.0)


def call_of(plan: Plan, folder: Path, run_dir: Path | None, *more: str) -> list[str]:
    """Return the command that runs a workflow, with the profile, overrides and seed that it was planned with.

    Parameters
    ----------
    folder
        Where the command will be started; the workflow is named from there.
    run_dir
        Run directory if it is not that of the name of the workflow.
    """
    document = plan.workflow.document
    words = [sys.executable, "-P", "-m", "dpsim", "run", _from(folder, plan.workflow.path)]
    words += ["--profile", document.profile] if document.profile else []
    for override in document.overrides:
        words += ["--set", override]
    words += ["--seed", str(plan.workflow.seed)] if plan.workflow.seed_given else []
    words += ["--run-dir", _from(folder, run_dir)] if run_dir is not None else []
    return [*words, *more]


def _from(folder: Path, path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


@dataclass(frozen=True)
class Node:
    """A task of the graph; a loop, whose iterations are not known before it runs, is one."""

    word: str
    """What ``--only`` takes."""
    tasks: tuple[str, ...]
    needs: tuple[str, ...]
    """Words of others."""


def graph_of(plan: Plan) -> list[Node]:
    """Return the tasks of a plan with loops as one, in order."""
    word_of = {name: _word(plan, name) for name in plan.order}
    members: dict[str, list[str]] = {}
    for name, word in word_of.items():
        members.setdefault(word, []).append(name)
    nodes = []
    for word, names in members.items():
        needs = dict.fromkeys(word_of[need] for name in names for need in plan.needs(name))
        nodes.append(Node(word, tuple(names), tuple(need for need in needs if need != word)))
    return list(_in_order(nodes))


def _word(plan: Plan, name: str) -> str:
    return plan.workflow.tasks[name].loop or name


def _in_order(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield nodes after those they need; a loop may need what stands behind its first task."""
    left, told = list(nodes), set[str]()
    while left:
        ready = next(node for node in left if told.issuperset(node.needs))
        left.remove(ready)
        told.add(ready.word)
        yield ready


def minutes(seconds: float) -> int:
    """Return a time in whole minutes, at least one."""
    return max(1, math.ceil(seconds / 60))


def mebibytes(memory: float) -> int:
    """Return bytes in whole MiB, as schedulers count."""
    return math.ceil(memory / 2**20)
