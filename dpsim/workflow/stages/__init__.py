"""The stage types: one file each, and this union that lists them."""

from __future__ import annotations

from dpsim.workflow.stages.base import Stage
from dpsim.workflow.stages.command import CommandStage

StageConfig = CommandStage
"""Any stage of a workflow, told apart by ``uses``."""

STAGE_TYPES: dict[str, type[Stage]] = {"command": CommandStage}


def find_stage_type(uses: str) -> type[Stage] | None:
    """Return the type of that name: a built-in one, or one of an installed package (group ``dpsim.stages``)."""
    if uses in STAGE_TYPES:
        return STAGE_TYPES[uses]
    from importlib.metadata import entry_points

    for entry in entry_points(group="dpsim.stages", name=uses):
        loaded = entry.load()
        if isinstance(loaded, type) and issubclass(loaded, Stage):
            return loaded
    return None
