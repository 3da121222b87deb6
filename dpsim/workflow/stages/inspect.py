"""Stage ``inspect``: what is in a data set, and whether something in it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.config import Config, Force, Length
from dpsim.workflow.stage import Input, Output, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

Flaw = Literal[
    "nan",
    "bad_cell",
    "missing_type",
    "missing_label",
    "too_close",
    "force_outlier",
    "energy_outlier",
    "duplicate",
    "duplicate_train_valid",
    "duplicate_train_test",
    "duplicate_valid_test",
]


class Limits(Config):
    """Limits beyond which frames are listed."""

    force_max: Force | None = None
    """Longest force, eV/Å; by default, forces far from the rest of the data are listed."""
    min_distance: Length | None = None
    """Smallest distance of two atoms, Å; by default a share of the sum of their covalent radii."""


class InspectStage(Stage):
    """Looks through a data set, and fails on what must not be in it."""

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"dataset"}))}
    outputs: ClassVar[Mapping[str, Output]] = {"report": Output("inspect.json", "metrics")}
    main: ClassVar[str] = "report"
    uses_type_map: ClassVar[bool] = True

    uses: Literal["inspect"] = "inspect"
    from_: Annotated[Input, Field(alias="from")]
    """The data set, with its parts."""
    labels: tuple[str, ...] = ("energy", "forces")
    """Labels that every frame should have."""
    fail_on: tuple[Flaw, ...] = ("nan", "bad_cell", "missing_type")
    """Flaws that fail the stage; all others are listed in its log and its output."""
    warn_on: Limits = Limits()
    """Limits instead of those found from the data."""

    def execute(self, context: Context) -> None:
        """Inspect.

        Raises
        ------
        DataError
            If there is a flaw of `fail_on`.
        """
        from data_tools.inspect import inspect_dataset
        from dpsim.data.files import write_json
        from dpsim.errors import DataError

        context.progress(0, None, "reading frames")
        found = inspect_dataset(
            context.input("from"),
            type_map=context.type_map,
            labels=self.labels,
            min_distance=self.warn_on.min_distance,
            force_max=self.warn_on.force_max,
        )
        print(found.table)
        for problem in found.problems:
            context.log(f"{problem.kind}: {len(problem.frames)} frames; {problem.message}")
        write_json(context.out / "inspect.json", found.to_dict())
        fatal = [problem for problem in found.problems if self._is_fatal(problem.kind)]
        if fatal:
            listed = "; ".join(f"{one.kind} in {len(one.frames)} frames ({one.message})" for one in fatal)
            raise DataError(f"the data set has what fail_on forbids: {listed}")

    def _is_fatal(self, kind: str) -> bool:
        return any(kind == flaw or kind.startswith(f"{flaw}_") for flaw in self.fail_on)
