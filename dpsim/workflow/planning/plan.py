"""A plan: tasks in order, with the outputs and files that each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dpsim.workflow.language.problems import Path
from dpsim.workflow.language.schema import Workflow
from dpsim.workflow.stage import dotted


@dataclass(frozen=True)
class Link:
    """One input of a task, resolved: outputs of other tasks, or files."""

    slot: str
    path: Path
    """Where it stands inside of the stage."""
    producers: tuple[tuple[str, str], ...] = ()
    """(task, path of the output inside of its folder)."""
    patterns: tuple[str, ...] = ()
    """Paths or patterns of files from outside, of which the first that matches counts."""
    optional: bool = False
    """Whether there is no input where no file matches."""


@dataclass(frozen=True)
class Plan:
    """Tasks in an order in which they can run, with their resolved inputs."""

    workflow: Workflow
    order: tuple[str, ...]
    links: Mapping[str, tuple[Link, ...]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Tasks that are left out, with the reason."""
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tasks that a task waits for without taking their outputs: those of an iteration, before a loop can end."""

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the tasks that a task waits for, each once."""
        producers = (task for link in self.links[name] for task, _ in link.producers)
        return tuple(dict.fromkeys((*producers, *self.after.get(name, ()))))

    def is_open(self, name: str) -> bool:
        """Whether a task is the end of a loop that may have iterations still to be planned."""
        return name in self.workflow.loops and not self.workflow.loops[name].ended

    def upstream(self, names: Sequence[str]) -> set[str]:
        """Return tasks and everything they need, directly or not."""
        found: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack += self.needs(name)
        return found

    def downstream(self, names: Sequence[str]) -> set[str]:
        """Return tasks and everything that needs them, directly or not."""
        found = set(names)
        for name in self.order:
            if found.intersection(self.needs(name)):
                found.add(name)
        return found

    def tasks_of(self, word: str) -> list[str]:
        """Return the tasks that a word on the command line means: a task, or a stage with all its points.

        A loop means all of it, ``loop.fit`` that stage in all iterations, ``loop.03`` all of the third.
        """
        return [name for name in self.order if word in self.workflow.tasks[name].words]


def describe(plan: Plan, name: str) -> str:
    """Return the inputs of a task in one line."""
    parts = []
    for link in plan.links[name]:
        what = link.patterns[0] if link.patterns else ", ".join(task for task, _ in link.producers)
        parts.append(f"{dotted(link.path)}: {what}")
    return "; ".join(parts)
