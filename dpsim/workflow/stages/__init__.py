"""The stage types: one file each, and the union here that lists them."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from dpsim.workflow.stage import Stage
from dpsim.workflow.stages.command import CommandStage
from dpsim.workflow.stages.convert import ConvertStage
from dpsim.workflow.stages.freeze import FreezeStage
from dpsim.workflow.stages.inspect import InspectStage
from dpsim.workflow.stages.label import LabelStage
from dpsim.workflow.stages.md import MDStage
from dpsim.workflow.stages.report import ReportStage
from dpsim.workflow.stages.test import TestStage
from dpsim.workflow.stages.train import TrainStage

_Any = (
    LabelStage
    | ConvertStage
    | InspectStage
    | TrainStage
    | FreezeStage
    | TestStage
    | MDStage
    | ReportStage
    | CommandStage
)
StageConfig = Annotated[_Any, Field(discriminator="uses")]
"""Any stage of a workflow, told apart by ``uses``."""

STAGE_TYPES: dict[str, type[Stage]] = {one.model_fields["uses"].default: one for one in get_args(_Any)}
"""The built-in types by name."""


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
