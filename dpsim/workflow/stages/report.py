"""Stage ``report``: one offline HTML file about the stages it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dpsim.workflow.records.files import read_json
from dpsim.workflow.stage import Output, Reference, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class ReportStage(Stage):
    """Builds the report of a run."""

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"any"}), many=True, whole=True)}
    outputs: ClassVar[Mapping[str, Output]] = {
        "index.html": Output("index.html", "report"),
        "summary.json": Output("summary.json", "metrics"),
        ".": Output(".", "report"),
    }
    main: ClassVar[str] = "."
    result_version: ClassVar[int] = 1
    soft: ClassVar[tuple[str, ...]] = ("matplotlib",)

    uses: Literal["report"] = "report"
    from_: Annotated[list[Reference], Field(alias="from", min_length=1)]
    """The stages that are shown, in this order."""

    def key_options(self) -> dict[str, Any]:
        """Return the options with the names of the stages, which stand in the report."""
        return {**super().key_options(), "from": list(self.from_)}

    def execute(self, context: Context) -> None:
        """Build the report."""
        from dpsim.report.build import Section, build_report

        sections = []
        for artifact in context.inputs["from"]:
            folder = artifact.paths[0]
            sections.append(Section(artifact.stage or folder.name, artifact.type or "", folder, dict(artifact.options)))
        manifest = read_json(context.run_dir / "manifest.json") if context.run_dir else {}
        build_report(sections, context.out, manifest)
