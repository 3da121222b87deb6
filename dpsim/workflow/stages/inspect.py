"""Stage ``inspect``: what is in a data set, and whether something in it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from data_tools.clean_config import NearDuplicates, Outliers, Removable
from dpsim.config import Config, Force, Length
from dpsim.workflow.stage import Input, Output, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

Flaw = Literal[
    Removable,
    "duplicate_train_valid",
    "duplicate_train_test",
    "duplicate_valid_test",
    "near_duplicate_train_valid",
    "near_duplicate_train_test",
    "near_duplicate_valid_test",
]


class Limits(Config):
    """Limits beyond which frames are listed."""

    force_max: Force | None = None
    """Longest force, eV/Å; by default, forces far from the rest of the data are listed."""
    min_distance: Length | None = None
    """Smallest distance of two atoms, Å; by default a share of the sum of their covalent radii."""


class InspectStage(Stage):
    """Looks through a data set, and fails on what must not be in it.

    With `drop`, it also writes the data set without the frames that something is wrong with (output ``clean``, in the
    same parts); every one of them is counted and named in the report.
    """

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"dataset"}))}
    outputs: ClassVar[Mapping[str, Output]] = {
        "report": Output("inspect.json", "metrics"),
        "clean": Output("clean", "dataset"),
    }
    output_needs: ClassVar[Mapping[str, str]] = {"clean": "drop"}
    main: ClassVar[str] = "report"
    uses_type_map: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = ("drop", "dedupe", "outliers", "property")

    uses: Literal["inspect"] = "inspect"
    from_: Annotated[Input, Field(alias="from")]
    """The data set, with its parts."""
    labels: tuple[str, ...] = ("energy", "forces")
    """Labels that every frame should have."""
    fail_on: tuple[Flaw, ...] = ("nan", "bad_cell", "missing_type")
    """Flaws that fail the stage, unless their frames are dropped; all others are listed in its log and its output."""
    warn_on: Limits = Limits()
    """Limits instead of those found from the data."""
    outliers: Outliers = Outliers()
    """What counts as far from the rest of the data: ``{method: iqr, factor: 3}``."""
    dedupe: NearDuplicates | None = None
    """Look for near duplicates too, ``{tol: 0.05 angstrom}``; without it, only if `drop` or `fail_on` names them, with
    the defaults below."""
    drop: tuple[Removable, ...] = ()
    """Flaws whose frames are left out of ``clean``. Of frames that are equal or nearly so, the first stays, in the
    order train, valid, test; ``near_duplicate`` means equal ones too."""
    property: str = ""
    """Name of a property that frames are labelled with, of its array: it is written to ``clean`` too."""

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the report, and the data set without what is dropped where something is."""
        return self.outputs if self.drop else {"report": self.outputs["report"]}

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that nothing is both dropped and fatal, and that what is for ``clean`` has an effect."""
        if "fail_on" in self.model_fields_set:
            for index, flaw in enumerate(self.fail_on):
                if self._is_dropped(flaw):
                    yield ("fail_on", index), f"frames with {flaw!r} are dropped, so it cannot fail the stage"
        if self.property and not self.drop:
            yield ("property",), "a property is written to 'clean', which there is only with 'drop'"

    def execute(self, context: Context) -> None:
        """Inspect.

        Raises
        ------
        DataError
            If there is a flaw of `fail_on`, or nothing is left of a part.
        """
        from data_tools.clean import write_kept
        from data_tools.inspect import inspect_dataset, open_parts
        from dpsim.data.files import write_json
        from dpsim.errors import DataError

        context.progress(0, None, "reading frames")
        parts = open_parts(context.input("from"), self.property)
        wanted = any(flaw.startswith("near_duplicate") for flaw in (*self.drop, *self.fail_on))
        found = inspect_dataset(
            parts,
            type_map=context.type_map,
            labels=self.labels,
            min_distance=self.warn_on.min_distance,
            force_max=self.warn_on.force_max,
            outliers=self.outliers,
            near=self.dedupe or (NearDuplicates() if wanted else None),
            drop=self.drop,
            progress=context.progress,
        )
        print(found.table)
        for problem in found.problems:
            context.log(f"{problem.kind}: {len(problem.frames)} frames; {problem.message}")
        write_json(context.out / "inspect.json", found.to_dict())
        fatal = [problem for problem in found.problems if self._is_fatal(problem.kind)]
        if fatal:
            listed = "; ".join(f"{one.kind} in {len(one.frames)} frames ({one.message})" for one in fatal)
            raise DataError(f"the data set has what fail_on forbids: {listed}")
        if self.drop:
            write_kept(parts, found, context.out / "clean", property_name=self.property)
            taken = ", ".join(f"{count} as {flaw}" for flaw, count in found.counts_removed().items() if count)
            left = ", ".join(f"{part or 'frames'} {len(rows)}" for part, rows in found.kept.items())
            context.log(f"clean: {left}; taken out: {taken or 'nothing'}")

    def _is_dropped(self, flaw: str) -> bool:
        asked = {*self.drop, *(("duplicate",) if "near_duplicate" in self.drop else ())}
        return any(flaw == one or flaw.startswith(f"{one}_") for one in asked)

    def _is_fatal(self, kind: str) -> bool:
        return not self._is_dropped(kind) and any(kind == flaw or kind.startswith(f"{flaw}_") for flaw in self.fail_on)
