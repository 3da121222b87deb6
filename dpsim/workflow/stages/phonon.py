"""Stage ``phonon``: harmonic phonons of a crystal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dpsim.calculators.statics.phonon_config import PhononConfig
from dpsim.workflow.stage import MaybeReference, Output, Slot, Source
from dpsim.workflow.stages.driven import SLOTS, DrivenStage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

_AFTER_FORCES = (
    "force_constants", "bands", "band_points", "mesh", "projected", "thermal", "imaginary", "nac", "reference",
    "max_difference",
)  # fmt: skip


class PhononStage(PhononConfig, DrivenStage):
    """Computes phonons: bands, density of states, thermal properties, imaginary modes."""

    result_version: ClassVar[int] = 2  # charges and magnetic moments of structure files
    slots: ClassVar[Mapping[str, Slot]] = {
        **SLOTS,
        "nac": Slot(frozenset({"any"})),
        "reference": Slot(frozenset({"table"})),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "summary": Output("summary.json", "metrics"),
        "bands": Output("bands.csv", "table"),
        "dos": Output("dos.csv", "table"),
        "thermal": Output("thermal.csv", "table"),
        "imaginary": Output("imaginary.json", "metrics"),
        "phonopy_params": Output("phonopy_params.yaml", "table"),
    }
    main: ClassVar[str] = "bands"
    soft: ClassVar[tuple[str, ...]] = ("torch", "ase", "phonopy", "symfc", "seekpath")

    uses: Literal["phonon"] = "phonon"

    def sources(self) -> Iterator[Source]:
        """Yield also the file of Born charges and the bands to compare with."""
        yield from super().sources()
        if self.nac is not None:
            yield Source("nac", ("nac",), MaybeReference(self.nac))
        if self.reference is not None:
            yield Source("reference", ("reference",), MaybeReference(self.reference))

    def citations(self) -> Iterator[str]:
        """Yield also the reference of phonopy."""
        yield from super().citations()
        yield "phonopy: A. Togo, L. Chaput, T. Tadano, I. Tanaka, J. Phys.: Condens. Matter 35, 353001 (2023)"

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep the forces when only what is made of them changes."""
        options = {name: value for name, value in parts["options"].items() if name not in _AFTER_FORCES}
        inputs = {place: digest for place, digest in parts["inputs"].items() if place not in _AFTER_FORCES}
        return {**parts, "options": options, "inputs": inputs}

    def execute(self, context: Context) -> None:
        """Displace, evaluate, and write; forces that are done survive in the work folder."""
        from dpsim.calculators.statics.phonon_run import run_phonons
        from dpsim.calculators.statics.structures import the_one

        config = PhononConfig.model_validate({name: getattr(self, name) for name in PhononConfig.model_fields})
        run_phonons(
            config,
            the_one(self.structures_of(context, self.on), "phonon"),
            self.source_of(context),
            context.out,
            work=context.work,
            nac=context.input("nac") if self.nac is not None else None,
            reference=context.input("reference") if self.reference is not None else None,
            progress=context.progress,
        )
