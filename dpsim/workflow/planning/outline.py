"""What is shown of a run: its name and its tasks with their types and what they wait for, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dpsim.workflow.planning.plan import Plan


class Line(NamedTuple):
    """One task."""

    uses: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outline:
    """A run as it is drawn, here or from another shell."""

    name: str
    tasks: Mapping[str, Line]

    @classmethod
    def of(cls, plan: Plan) -> Outline:
        """Return that of a plan."""
        tasks = {name: Line(plan.workflow.tasks[name].config.uses, plan.needs(name)) for name in plan.order}
        return cls(plan.workflow.name, tasks)

    def as_event(self) -> dict[str, Any]:
        """Return what is written into ``events.jsonl``."""
        return {"name": self.name, "stages": {name: line._asdict() for name, line in self.tasks.items()}}

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Outline:
        """Return that of an event; one that an older dpsim wrote names its tasks and nothing else."""
        stages = event.get("stages") or {}
        if not isinstance(stages, Mapping):
            stages = {name: {} for name in map(str, stages)}
        tasks = {name: Line(str(one.get("uses", "")), tuple(one.get("needs", ()))) for name, one in stages.items()}
        return cls(str(event.get("name") or ""), tasks)
