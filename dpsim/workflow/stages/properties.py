"""Stage ``properties``: what a crystal is like, beside what it should be like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dpsim.calculators.statics.declared import Place
from dpsim.calculators.statics.properties_config import PropertiesConfig
from dpsim.workflow.stage import MaybeReference, Output, Slot, Source
from dpsim.workflow.stages.driven import SLOTS, DrivenStage

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.workflow.context import Context

_AFTER_ALL = ("reference", "tolerance", "beyond_tolerance", "tolerate_failures")


class PropertiesStage(PropertiesConfig, DrivenStage):
    """Computes properties of crystals, and compares them with reference values."""

    result_version: ClassVar[int] = 2  # names of structures that differ; charges and magnetic moments of files
    slots: ClassVar[Mapping[str, Slot]] = {**SLOTS, "reference": Slot(frozenset({"table"}))}
    outputs: ClassVar[Mapping[str, Output]] = {
        "table": Output("table.csv", "table"),
        "details": Output("properties.json", "metrics"),
        "frames": Output("relaxed.extxyz", "structures"),
    }
    main: ClassVar[str] = "table"
    soft: ClassVar[tuple[str, ...]] = ("torch", "ase", "spglib", "phonopy")

    uses: Literal["properties"] = "properties"

    def structure_places(self) -> Iterator[tuple[Place, Any]]:
        """Yield also the ends of a barrier."""
        yield from super().structure_places()
        if self.compute.neb:
            for name in ("initial", "final"):
                yield ("compute", "neb", name), getattr(self.compute.neb, name)

    def sources(self) -> Iterator[Source]:
        """Yield also the file of reference values."""
        yield from super().sources()
        if self.reference is not None:
            yield Source("reference", ("reference",), MaybeReference(self.reference))

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the outputs by name; the comparison if there is a reference."""
        if self.reference is None:
            return self.outputs
        return {**self.outputs, "vs_reference": Output("vs_reference.csv", "table")}

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep what is computed when only the comparison changes."""
        options = {name: value for name, value in parts["options"].items() if name not in _AFTER_ALL}
        inputs = {place: digest for place, digest in parts["inputs"].items() if place != "reference"}
        return {**parts, "options": options, "inputs": inputs}

    def execute(self, context: Context) -> None:
        """Compute; properties that are done survive in the work folder."""
        from dpsim.calculators.statics.properties_run import run_properties

        config = PropertiesConfig.model_validate({name: getattr(self, name) for name in PropertiesConfig.model_fields})
        run_properties(
            config,
            self.structures_of(context, self.on),
            self.source_of(context),
            context.out,
            ends=self._ends(context),
            reference=context.input("reference") if self.reference is not None else None,
            work=context.work,
            progress=context.progress,
        )

    def _ends(self, context: Context) -> tuple[Atoms, Atoms] | None:
        from dpsim.calculators.statics.structures import the_one

        neb = self.compute.neb
        if not neb or neb.vacancy_hop:
            return None
        places = (f"compute.neb.{name}" for name in ("initial", "final"))
        initial, final = (
            the_one(self.structures_of(context, one, place), "neb", place)
            for one, place in zip((neb.initial, neb.final), places, strict=True)
        )
        return initial, final
