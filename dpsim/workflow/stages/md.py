"""Stage ``md``: molecular dynamics with LAMMPS and a frozen model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dpsim.calculators.md.config import FramesStart, MDConfig
from dpsim.errors import ConfigError
from dpsim.workflow.stage import Files, Inputs, MaybeReference, Output, Resources, SeededStage, Slot, Source, sources_of
from dpsim.workflow.stages.label import elements_of_structure, files_of_structure

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from dpsim.calculators.md.lammps import Progress
    from dpsim.calculators.md.results import MDResult
    from dpsim.workflow.context import Context

_ONE_PROCESS = "engine: ase runs in one process: give cpus instead, or use engine: lammps"
_ANALYSIS = ("analyse", "reference", "stop_if")
_TRAJECTORY_VERSION = 2
"""Of what the runs themselves give; `MDStage.result_version` counts changes of their analysis too."""
_LATER: dict[str, dict[str, Any]] = {
    "stop_if": {"max_deviation_force": None, "max_bond_stretch": None, "then": "end"},
    "analyse": {"vdos": None, "density": None, "drift": None},
    "msd": {"blocks": 5},
    "run": {"barostat": "nose-hoover", "bulk_modulus": None},
    "dump": {"velocities": False, "forces": False},
}
"""Keys inside of others that came later, with their defaults: as `Stage.later`."""


class MDStage(MDConfig, SeededStage):
    """Runs molecular dynamics and analyses the trajectory."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "potential": Slot(frozenset({"frozen"}), many=True),
        "start": Slot(frozenset({"frames", "structures", "dataset"})),
        "structures": Slot(frozenset({"any"}), many=True),
        "reference": Slot(frozenset({"frames", "structures", "dataset"}), many=True),
        "script": Slot(frozenset({"any"})),
        "files": Slot(frozenset({"any"}), many=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "frames": Output("trajectory.extxyz", "structures"),
        "thermo": Output("thermo.csv", "table"),
        "final": Output("final.extxyz", "structures"),
        "analysis": Output("analysis.json", "metrics"),
    }
    main: ClassVar[str] = "frames"
    result_version: ClassVar[int] = 3
    uses_type_map: ClassVar[bool] = True
    wants: ClassVar[Resources] = Resources(ranks=2, cpus=2, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("lammps", "torch", "mpich")
    later: ClassVar[tuple[str, ...]] = ("deviation", "script")
    not_in_key: ClassVar[frozenset[str]] = SeededStage.not_in_key | {"walltime"}

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
        elif self.start is not None:
            yield from files_of_structure("structures", ("start",), self.start)
        if self.reference is not None:
            yield Source("reference", ("reference",), MaybeReference(self.reference))
        if self.script is not None:
            yield Source("script", ("script",), Files(path=self.script.path))
            for index, name in enumerate(self.script.files):
                yield Source("files", ("script", "files", index), Files(path=name))

    def elements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the elements of the start structure that are known already, and those that analyses name."""
        if self.script is not None:
            yield from ((("script", "types"), name) for name in self.script.types if name != "NULL")
        if self.start is not None and not isinstance(self.start, FramesStart):
            yield from elements_of_structure(("start",), self.start)
        for name, analysis in self.analyse:
            for option in ("pairs", "species"):
                for index, named in enumerate(getattr(analysis, option, None) or ()):
                    for symbol in (named,) if isinstance(named, str) else named:
                        yield ("analyse", name, option, index), symbol

    def wanted(self) -> Resources:
        """Return one rank for ASE."""
        return Resources(ranks=1, cpus=2, gpus=1) if self.engine == "ase" else self.wants

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that what is asked for is something the engine has."""
        if self.engine == "ase" and isinstance(self.resources, Resources) and (self.resources.ranks or 1) > 1:
            yield ("resources", "ranks"), _ONE_PROCESS

    def citations(self) -> Iterator[str]:
        """Yield the reference of the engine."""
        if self.engine == "ase":
            yield "ASE: A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017)"
            return
        yield "LAMMPS: A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022)"

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the outputs by name; a table of the deviation if it is asked for, and others of a script."""
        if self.script is not None:
            own = {
                "log": Output("log.lammps", "log"),
                "files": Output("files", "folder"),
                "input": Output("in.lammps", "text"),
            }
            shared = ("thermo", "analysis") if self.script.frames is None else ("thermo", "analysis", "frames")
            return {**own, **{name: self.outputs[name] for name in shared}}
        if self.deviation is None:
            return self.outputs
        return {**self.outputs, "deviation": Output("model_devi.out", "table")}

    def key_options(self) -> dict[str, Any]:
        """Return the options of the cache key; those of `_LATER` are left out where they have their default."""
        options = super().key_options()
        places = [("stop_if", options["stop_if"]), ("analyse", options["analyse"])]
        places += [("msd", options["analyse"]["msd"] or {})]
        for segment in options["run"] or ():
            places += [("run", segment), ("dump", segment.get("dump", {}))]
        for place, settings in places:
            for name, default in _LATER[place].items():
                if name in settings and settings[name] == default:
                    del settings[name]
        return options

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep the trajectory when only its analysis changes, here or in dpsim; `run_md` compares everything else."""
        options = {name: value for name, value in parts["options"].items() if name not in _ANALYSIS}
        inputs = {place: digest for place, digest in parts["inputs"].items() if place.split(".")[0] != "reference"}
        return {**parts, "options": options, "inputs": inputs, "result_version": _TRAJECTORY_VERSION}

    def execute(self, context: Context) -> None:
        """Run in the work folder, from the newest checkpoint there is; from several starts, one after the other."""
        config = MDConfig.model_validate({name: getattr(self, name) for name in MDConfig.model_fields})
        starts = self._starts(context)
        if self.script is not None:
            self._execute_script(context, config, starts[0] if starts else None)
            return
        more: dict[str, Any] = {
            "type_map": context.type_map,
            "seed": context.seed,
            "reference": context.paths("reference"),
        }
        if self.engine == "ase":
            from dpsim.calculators.md.ase import run_md_ase as run

            if context.resources.ranks > 1:
                raise ConfigError(f"resources: {context.resources.ranks} ranks, but {_ONE_PROCESS}")
        else:
            from dpsim.calculators.md.lammps import run_md as run

            more |= {"ranks": context.resources.ranks, "mpi": context.resources.mpi}
        potentials = context.paths("potential")
        if len(starts) == 1:
            more |= {"seed": context.seed, "progress": context.progress}
            run(config, starts[0], potentials, context.work, context.out, **more)
            return
        from dpsim.calculators.md.many import run_many
        from dpsim.calculators.md.stop import Deadline

        more["deadline"] = Deadline(config.walltime)

        def one(number: int, atoms: Atoms, work: Path, out: Path, progress: Progress | None) -> MDResult:
            seed = (context.seed if self.seed is None else self.seed) + number
            numbered = config.model_copy(update={"seed": seed})
            return run(numbered, atoms, potentials, work, out, **{**more, "seed": seed, "progress": progress})

        run_many(one, starts, context.work, context.out, context.progress)

    def _starts(self, context: Context) -> list[Atoms]:
        from dpsim.calculators.md.start import start_structure, start_structures

        if self.start is None:
            return []
        frames = context.input("start") if isinstance(self.start, FramesStart) else None
        given: dict[str, Any] = {"seed": context.seed, "frames": frames, "type_map": context.type_map}
        with contextlib.chdir(context.base):  # paths inside of the declaration are relative to the workflow file
            if self.script is not None:
                return [start_structure(self.start, **given)]
            return start_structures(self.start, **given)

    def main_output(self) -> str:
        """Return the frames, where there are some."""
        return "frames" if "frames" in self.declared_outputs() else "log"

    def _execute_script(self, context: Context, config: MDConfig, start: Atoms | None) -> None:
        from dpsim.calculators.md.script import run_script

        assert self.script is not None
        summary = run_script(
            config,
            self.script,
            context.input("script"),
            start,
            context.paths("potential"),
            context.work,
            context.out,
            type_map=context.type_map,
            files=context.paths("files"),
            ranks=context.resources.ranks,
            mpi=context.resources.mpi,
            seed=context.seed,
            progress=context.progress,
        )
        lines = ", ".join(map(str, summary["after_lines"]))
        context.log(f"pair lines put behind line {lines} of {self.script.path}: {' | '.join(summary['injected'])}")
