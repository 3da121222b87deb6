"""Loops as they are declared: one stage with inner stages, of which each iteration has tasks of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpsim.workflow.language.tasks import Task
from dpsim.workflow.stages.loop import LoopStage


@dataclass(frozen=True)
class Loop:
    """A declared loop, and how far it is planned."""

    name: str
    config: LoopStage
    template: tuple[Task, ...]
    """Tasks of the first iteration."""
    left_out: tuple[str, ...] = ()
    """Inner stages with ``when: false``, and points that have it of others."""
    iteration: int = 1
    """The last one that is planned."""
    ended: bool = False
    values: tuple[float, ...] = ()
    """The metric of each iteration that is done."""

    def key(self, iteration: int, inner: str) -> str:
        """Return the name that an inner stage has in an iteration."""
        return f"{self.name}.{iteration:02d}.{inner}"

    def tasks(self, iteration: int) -> Iterator[Task]:
        """Yield the tasks of an iteration."""
        first = self.key(1, "")
        for task in self.template:
            name = self.key(iteration, task.name.removeprefix(first))
            yield replace(task, name=name, stage=self.key(iteration, task.inner), iteration=iteration)

    def never_changes(self, key: str) -> bool:
        """Whether what is carried under a name comes back to it without passing a stage."""
        seen: set[str] = set()
        while key not in seen and key in self.config.carry:
            seen.add(key)
            head, _, rest = self.config.next.get(key, "").partition(".")
            if head != self.name:
                return False
            key = rest.partition(".")[0]
        return key in seen

    def outlook(self) -> str:
        """Return what is still to come, in words."""
        seen = f" ({', '.join(f'{value:.4g}' for value in self.values)} so far)" if self.values else ""
        if self.ended:
            reached = self.config.until.reached(self.values)
            return f"{self.iteration} iterations" + ("" if reached else f", without {self.config.until}") + seen
        more = self.config.max_iterations - self.iteration
        then = f"then up to {more} more until {self.config.until}" if more else "the last one"
        return f"after iteration {self.iteration}, {then}{seen}"


def declared(raw: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the inner stages of a loop as they are written."""
    stages = raw.get("stages")
    if isinstance(stages, dict):
        yield from ((name, inner) for name, inner in stages.items() if isinstance(inner, dict))
