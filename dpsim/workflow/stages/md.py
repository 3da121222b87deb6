"""Stage ``md``: molecular dynamics with LAMMPS and a frozen model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dpsim.calculators.md_config import FramesStart, MDConfig
from dpsim.workflow.stage import Inputs, MaybeReference, Output, Resources, SeededStage, Slot, Source, sources_of
from dpsim.workflow.stages.label import elements_of_structure, files_of_structure

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

_ANALYSIS = ("analyse", "reference", "stop_if")


class MDStage(MDConfig, SeededStage):
    """Runs molecular dynamics and analyses the trajectory."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "potential": Slot(frozenset({"frozen"}), many=True),
        "start": Slot(frozenset({"frames", "structures", "dataset"})),
        "structures": Slot(frozenset({"any"}), many=True),
        "reference": Slot(frozenset({"frames", "structures", "dataset"}), many=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "frames": Output("trajectory.extxyz", "structures"),
        "thermo": Output("thermo.csv", "table"),
        "final": Output("final.extxyz", "structures"),
        "analysis": Output("analysis.json", "metrics"),
    }
    main: ClassVar[str] = "frames"
    uses_type_map: ClassVar[bool] = True
    wants: ClassVar[Resources] = Resources(ranks=2, cpus=2, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("lammps", "torch", "mpich")
    later: ClassVar[tuple[str, ...]] = ("deviation",)

    uses: Literal["md"] = "md"
    potential: Inputs
    """The frozen model, or a list: the first drives, and all give the `deviation`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of the velocities and the noise; by default that of the workflow."""

    def sources(self) -> Iterator[Source]:
        """Yield the model, and what the start and the reference are read from."""
        yield from sources_of("potential", ("potential",), self.potential)
        if isinstance(self.start, FramesStart):
            yield Source("start", ("start", "frames"), MaybeReference(self.start.frames))
        else:
            yield from files_of_structure("structures", ("start",), self.start)
        if self.reference is not None:
            yield Source("reference", ("reference",), MaybeReference(self.reference))

    def elements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the elements of the start structure that are known already."""
        if not isinstance(self.start, FramesStart):
            yield from elements_of_structure(("start",), self.start)

    def citations(self) -> Iterator[str]:
        """Yield the reference of LAMMPS."""
        yield "LAMMPS: A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022)"

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the outputs by name; a table of the deviation if it is asked for."""
        if self.deviation is None:
            return self.outputs
        return {**self.outputs, "deviation": Output("model_devi.out", "table")}

    def key_options(self) -> dict[str, Any]:
        """Return the options of the cache key; a limit of the deviation came later."""
        options = super().key_options()
        if self.stop_if.max_deviation_force is None:
            del options["stop_if"]["max_deviation_force"]
        return options

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep the trajectory when only its analysis changes; `run_md` compares everything else."""
        options = {name: value for name, value in parts["options"].items() if name not in _ANALYSIS}
        inputs = {place: digest for place, digest in parts["inputs"].items() if place.split(".")[0] != "reference"}
        return {**parts, "options": options, "inputs": inputs}

    def execute(self, context: Context) -> None:
        """Run in the work folder, from the newest checkpoint there is."""
        from dpsim.calculators.lammps import run_md
        from dpsim.calculators.md_start import start_structure

        config = MDConfig.model_validate({name: getattr(self, name) for name in MDConfig.model_fields})
        frames = context.input("start") if isinstance(self.start, FramesStart) else None
        with contextlib.chdir(context.base):  # paths inside of the declaration are relative to the workflow file
            start = start_structure(self.start, seed=context.seed, frames=frames, type_map=context.type_map)
        run_md(
            config,
            start,
            context.paths("potential"),
            context.work,
            context.out,
            type_map=context.type_map,
            ranks=context.resources.ranks,
            seed=context.seed,
            progress=context.progress,
            reference=context.paths("reference"),
        )
