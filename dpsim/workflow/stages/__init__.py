"""The stage types: one file each, what some of them share, and the union here that lists them.

A type is imported when it is used: a process that runs one stage does not pay for the settings of all others.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

from pydantic import Field

from dpsim.workflow.stage import Stage

if TYPE_CHECKING:
    from dpsim.workflow.stages.command import CommandStage
    from dpsim.workflow.stages.compress import CompressStage
    from dpsim.workflow.stages.convert import ConvertStage
    from dpsim.workflow.stages.freeze import FreezeStage
    from dpsim.workflow.stages.inspect import InspectStage
    from dpsim.workflow.stages.label import LabelStage
    from dpsim.workflow.stages.loop import LoopStage
    from dpsim.workflow.stages.md import MDStage
    from dpsim.workflow.stages.phonon import PhononStage
    from dpsim.workflow.stages.properties import PropertiesStage
    from dpsim.workflow.stages.relax import RelaxStage
    from dpsim.workflow.stages.report import ReportStage
    from dpsim.workflow.stages.select import SelectStage
    from dpsim.workflow.stages.test import TestStage
    from dpsim.workflow.stages.train import TrainStage

    StageConfig = (
        LabelStage
        | ConvertStage
        | InspectStage
        | TrainStage
        | FreezeStage
        | TestStage
        | RelaxStage
        | PhononStage
        | PropertiesStage
        | MDStage
        | SelectStage
        | CompressStage
        | LoopStage
        | ReportStage
        | CommandStage
    )
    """Any stage of a workflow, told apart by ``uses``."""

STAGE_TYPES: Final = {
    "label": "LabelStage",
    "convert": "ConvertStage",
    "inspect": "InspectStage",
    "train": "TrainStage",
    "freeze": "FreezeStage",
    "test": "TestStage",
    "relax": "RelaxStage",
    "phonon": "PhononStage",
    "properties": "PropertiesStage",
    "md": "MDStage",
    "select": "SelectStage",
    "compress": "CompressStage",
    "loop": "LoopStage",
    "report": "ReportStage",
    "command": "CommandStage",
}
"""The built-in types by name; each is the class in the file of that name."""


@cache
def find_stage_type(uses: str) -> type[Stage] | None:
    """Return the type of that name: a built-in one, or one of an installed package (group ``dpsim.stages``)."""
    if uses in STAGE_TYPES:
        found: type[Stage] = getattr(import_module(f"dpsim.workflow.stages.{uses}"), STAGE_TYPES[uses])
        return found
    from importlib.metadata import entry_points

    for entry in entry_points(group="dpsim.stages", name=uses):
        loaded = entry.load()
        if isinstance(loaded, type) and issubclass(loaded, Stage):
            return loaded
    return None


def stage_union() -> Any:
    """Return the union of all built-in types, for the schema."""
    types = tuple(find_stage_type(name) for name in STAGE_TYPES)
    return Annotated[Union[types], Field(discriminator="uses")]  # noqa: UP007 - made from a tuple
