"""Tasks: the stages of a workflow, one for each point of a matrix, model of an ensemble and iteration of a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsim.workflow.language.problems import Path
from dpsim.workflow.stage import Resources, Stage


@dataclass(frozen=True)
class Task:
    """One stage, or one matrix point of it, ready to be planned."""

    name: str
    """Unique; ``stage`` or ``stage@axis=value``."""
    stage: str
    """Name in the file."""
    config: Stage
    resources: Resources
    point: Mapping[str, Any] = field(default_factory=dict)
    member: int | None = None
    """Which model of an ensemble, from 1."""
    loop: str = ""
    """Name of the loop that it is in."""
    iteration: int = 1
    """Of that loop."""
    inner: str = ""
    """Name within the loop."""

    @property
    def path(self) -> Path:
        """Where the stage stands in the file."""
        return ("stages", self.loop, "stages", self.inner) if self.loop else ("stages", self.stage)

    @property
    def words(self) -> frozenset[str]:
        """What it may be called on the command line; inner stages also by loop, iteration, or in all iterations."""
        around = (self.loop, f"{self.loop}.{self.inner}", f"{self.loop}.{self.iteration:02d}") if self.loop else ()
        return frozenset({self.name, self.stage, *around})
