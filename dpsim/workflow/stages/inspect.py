"""Stage ``inspect``: what is in a data set, and whether something in it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.config import Config, Force, Length
from dpsim.workflow.stages.base import Inputs, Output, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

Flaw = Literal["missing_type", "nan", "duplicates", "duplicate_train_valid", "too_close"]


class Limits(Config):
    """Values beyond which a warning is written."""

    force_max: Force | None = None
    """Largest component of a force, eV/Å."""
    min_distance: Length | None = None
    """Smallest distance of two atoms, Å."""


class InspectStage(Stage):
    """Looks through a data set and fails on what must not be in it."""

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"dataset"}), many=True)}
    outputs: ClassVar[Mapping[str, Output]] = {"report": Output("inspect.json", "metrics")}
    main: ClassVar[str] = "report"
    uses_type_map: ClassVar[bool] = True

    uses: Literal["inspect"] = "inspect"
    from_: Annotated[Inputs, Field(alias="from")]
    """The data set."""
    fail_on: tuple[Flaw, ...] = ("missing_type", "nan")
    """Flaws that fail the stage."""
    warn_on: Limits = Limits()
    """Limits that give warnings."""

    def execute(self, context: Context) -> None:
        """Inspect."""
        from data_tools.inspect import inspect_dataset

        inspect_dataset(
            context.paths("from"),
            context.out,
            type_map=context.type_map,
            fail_on=self.fail_on,
            warn_on=self.warn_on.model_dump(exclude_none=True),
            on_progress=lambda done, total, *rest: context.progress(done, total, "frames inspected"),
        )
