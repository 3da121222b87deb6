"""What a molecular dynamics stage is told: where to start, which segments to run, what to analyse.

Only declarations live here (no torch, no ASE), so that a workflow can be validated in an instant.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from data_tools.structure_config import StructureConfig
from dpsim.calculators.md.analysis_config import AnalyseConfig, MsdConfig, RdfConfig, VdosConfig, read_analyses
from dpsim.calculators.md.segments import (
    DeviationConfig,
    DumpConfig,
    Dynamics,
    MinimizeSegment,
    NVESegment,
    Output,
    Segment,
    fill_timesteps,
    interval_steps,
)
from dpsim.config import Config, Force, Temperature, Walltime


def _number_as_text(value: Any) -> Any:
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class StopConfig(Config):
    """Conditions that end a run before its time. Lost atoms and numbers that are none always fail it."""

    max_temperature: Annotated[Temperature, Field(gt=0)] = 20_000.0
    """K; the default is passed only by a simulation that has blown up, so this always fails the stage."""
    max_deviation_force: Annotated[Force, Field(gt=0)] | None = None
    """Largest deviation of the force on an atom that is tolerated, eV/Å (or relative, as it is written)."""
    max_bond_stretch: Annotated[float, Field(gt=1)] | None = None
    """Largest length of a bond in units of its length at the start; looked at in every frame of the trajectory. Bonds
    are the pairs of atoms that are nearer at the start than 1.25 times the sum of their covalent radii."""
    then: Literal["end", "fail"] = "end"
    """Whether the run ends there, with all frames up to the condition and its reason in the report, or fails."""


class ScriptConfig(Config):
    """A LAMMPS input of one's own, to which dpsim adds the ``pair_style`` and ``pair_coeff`` lines and nothing else.

    They go behind every command that makes a box (``read_data``, ``read_restart``, ``create_box``), or wherever the
    input says ``# dpsim: pair``. Variables of LAMMPS that it gets: ``start`` (a data file, where `start` is given),
    ``seed``, ``resumed`` (``yes`` or ``no``), ``resume`` (newest file named ``*restart*`` of an earlier attempt, or
    ``none``), and `variables`: ``if "${resumed} == no" then "read_data ${start}" else "read_restart ${resume}"``.
    """

    path: Annotated[str, Field(min_length=1)]
    """The input file."""
    types: tuple[str, ...] = ()
    """Element of LAMMPS type 1, 2, … (or NULL); may be left out where `start` is given: then the order is that of
    `type_map`, as in the data file that is written."""
    variables: dict[str, Annotated[str, BeforeValidator(_number_as_text)]] = {}
    """Values of LAMMPS variables by name."""
    files: tuple[str, ...] = ()
    """Other files that the input reads; linked into its folder."""
    frames: str | None = None
    """Text dump that the input writes, of which the output `frames` is made."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.variables:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"variables: {name!r} is not a name of a LAMMPS variable: use letters, digits and _")
            if name in ("start", "seed", "resume", "resumed"):
                raise ValueError(f"variables: {name} is given by dpsim, choose another name")
        return self


def _read_script(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class FramesStart(Config):
    """One frame of a file or of another stage's frames."""

    frames: Annotated[str, Field(min_length=1)]
    """A reference such as ``label.frames``, or the path of a file that ASE reads."""
    index: int = -1
    """Which frame; negative counts from the end."""
    supercell: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1, 1)
    """Repetitions along the three cell vectors."""


def _read_start(value: Any) -> Any:
    return {"frames": value} if isinstance(value, str) else value


def _start_kind(value: Any) -> str:
    return (
        "frames" if isinstance(value, FramesStart) or (isinstance(value, dict) and "frames" in value) else "structure"
    )


Start = Annotated[
    Annotated[FramesStart, Tag("frames")] | Annotated[StructureConfig, Tag("structure")],
    Discriminator(_start_kind),
    BeforeValidator(_read_start),
]
"""Where a run starts: a frame, or a structure to build; told apart by the key `frames`."""


def _one_or_many(schema: dict[str, Any]) -> None:
    array = {key: schema.pop(key) for key in ("type", "items", "minItems", "maxItems") if key in schema}
    schema["anyOf"] = [array["items"], array]


class MDConfig(Config):
    """Molecular dynamics with a frozen model."""

    start: Start | None = None
    """A structure to build, ``{frames: label.frames, index: 0, supercell: [2, 2, 2]}``, or just a reference. From
    several (``{path: start/*.xyz, sample: 8}``), there is one run after the other."""
    run: Annotated[tuple[Segment, ...], Field(json_schema_extra=_one_or_many)] = ()
    """One segment or a list of segments, run in order."""
    script: Annotated[ScriptConfig | None, BeforeValidator(_read_script)] = None
    """A LAMMPS input of one's own instead of `run`: its path, or {path, types, variables, files, frames}."""
    analyse: Annotated[AnalyseConfig, BeforeValidator(read_analyses)] = AnalyseConfig()
    """rdf, msd, vdos, density, drift; a list of names or {name: {options}}."""
    reference: str | None = None
    """Frames whose RDF is put beside that of the run: a reference, a file that ASE reads, or a data set."""
    engine: Literal["lammps", "ase"] = "lammps"
    """LAMMPS on any number of ranks, or ASE's structures and calculator in one process (any model file)."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Of the velocities and the noise; if absent, the workflow's."""
    velocities: Literal["create", "keep"] = "create"
    """Draw velocities from the first temperature, or keep those of the start frame."""
    checkpoint: Output = Output(every="500 steps")
    """How often the state is saved, from which a killed run goes on."""
    walltime: Walltime | None = None
    """Time for the runs from all starts, after which they stop with exit code 75; the same command goes on from the
    last checkpoint."""
    stop_if: StopConfig = StopConfig()
    deviation: DeviationConfig | None = None
    """How often the deviation of several models is written, e.g. {every: 50 steps}."""

    @field_validator("run", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]

    @field_validator("run", mode="after")
    @classmethod
    def _filled(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return fill_timesteps(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.script is not None:
            self._check_script()
            return self
        if missing := [name for name in ("start", "run") if not getattr(self, name)]:
            raise ValueError(f"md needs {' and '.join(missing)} (or a script of LAMMPS): add it")
        for index, segment in enumerate(self.run):
            if index and isinstance(segment, MinimizeSegment):
                raise ValueError(f"run[{index}]: a minimisation can only be the first segment")
        self._check_velocities()
        self._check_deviation()
        for name in ("rdf", "msd", "vdos"):
            self._check_segments(name, getattr(self.analyse, name))
        self._check_recorded()
        if self.reference is not None and self.analyse.rdf is None:
            raise ValueError("reference is only used by the rdf analysis: add 'analyse: [rdf]'")
        return self

    def _check_script(self) -> None:
        defaults = type(self).model_fields
        own = ("run", "reference", "engine", "velocities", "checkpoint", "stop_if", "deviation")
        for name in own:
            if getattr(self, name) != defaults[name].default:
                raise ValueError(f"{name} is what a script says itself: remove it, or the script")
        asked = [name for name in type(self.analyse).model_fields if getattr(self.analyse, name) is not None]
        assert self.script is not None
        if asked and (asked != ["rdf"] or self.script.frames is None):
            raise ValueError(
                f"analyse.{asked[-1]}: of a script, only rdf is computed, from the dump that script.frames names"
            )
        if self.start is None and not self.script.types:
            raise ValueError("script.types: name the element of each LAMMPS atom type, such as [O, H], or give start")

    def _check_velocities(self) -> None:
        moving = [(i, s) for i, s in enumerate(self.run) if not isinstance(s, MinimizeSegment)]
        for position, (index, segment) in enumerate(moving):
            if not isinstance(segment, NVESegment):
                continue
            creates = position == 0 and self.velocities == "create"
            if creates and segment.temperature is None:
                raise ValueError(
                    f"run[{index}]: dynamics that begins with nve needs a temperature for its first velocities"
                )
            if not creates and segment.temperature is not None:
                raise ValueError(f"run[{index}]: nve keeps the velocities it is given, remove temperature")

    def _check_deviation(self) -> None:
        if self.deviation is None:
            if self.stop_if.max_deviation_force is not None:
                raise ValueError("stop_if.max_deviation_force limits the deviation of several models: add 'deviation'")
            return
        lengths = {s.step_length for s in self.run if isinstance(s, Dynamics)}
        if not lengths:
            raise ValueError("deviation is written along dynamics, but run only minimises: remove it")
        if len(lengths) > 1 and self.deviation.every.endswith("ps"):
            raise ValueError(
                f"deviation.every: segments have time steps of {' and '.join(f'{x:g} ps' for x in sorted(lengths))}: "
                "write a number of steps"
            )

    @property
    def deviation_steps(self) -> int:
        """Steps between two lines about the deviation; 0 if it is not written."""
        if self.deviation is None:
            return 0
        first = next(s for s in self.run if isinstance(s, Dynamics))
        return interval_steps(self.deviation.every, first.step_length)

    def _check_segments(self, name: str, analysis: RdfConfig | MsdConfig | VdosConfig | None) -> None:
        if analysis is None:
            return
        self._check_moving(name, analysis.segments)
        used = [s for i in self.segments_of(analysis.segments) if isinstance(s := self.run[i], Dynamics)]
        counts = [s.n_steps // interval_steps(s.dump.every, s.step_length) for s in used]
        if sum(counts) < (needed := 1 if name == "rdf" else 4):
            raise ValueError(
                f"analyse.{name} needs at least {needed} frames, but dump.every {used[-1].dump.every} gives "
                f"{sum(counts)}: dump more often"
            )

    def _check_moving(self, name: str, segments: tuple[int, ...] | None) -> None:
        for index in segments or ():
            if not 0 <= index < len(self.run) or isinstance(self.run[index], MinimizeSegment):
                raise ValueError(
                    f"analyse.{name}.segments: {index} is not a dynamics segment of run (0 to {len(self.run) - 1})"
                )
        if isinstance(self.run[-1], MinimizeSegment):
            raise ValueError(f"analyse.{name} needs a segment of dynamics, but run only minimises")

    def _check_recorded(self) -> None:
        if (density := self.analyse.density) is not None:
            self._check_moving("density", density.segments)
        if (drift := self.analyse.drift) is not None:
            chosen = self.drift_segments
            if not chosen or any(index not in self._nve for index in chosen):
                raise ValueError(
                    f"analyse.drift needs segments of nve, run has {', '.join(s.ensemble for s in self.run)}"
                    f"{'' if drift.segments is None else f' and segments names {list(chosen)}'}: add one"
                )

    def segments_of(self, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
        """Segments that an analysis uses: those it names, or the last."""
        return wanted or (len(self.run) - 1,)

    @property
    def drift_segments(self) -> tuple[int, ...]:
        """Segments whose drift `analyse` asks for."""
        if self.analyse.drift is None:
            return ()
        return self.analyse.drift.segments or self._nve

    @property
    def _nve(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.run) if isinstance(s, NVESegment))

    def dumped(self, index: int) -> DumpConfig:
        """What frames of a segment of dynamics hold: what it says, and velocities for a vdos of it."""
        segment = self.run[index]
        assert isinstance(segment, Dynamics)
        vdos = self.analyse.vdos
        needed = vdos is not None and index in self.segments_of(vdos.segments)
        return segment.dump.model_copy(update={"velocities": True}) if needed else segment.dump

    def course(self) -> dict[str, Any]:
        """What the course of the dynamics depends on beside start, models and seed, as JSON."""
        silent = {
            "start",
            "analyse",
            "reference",
            "stop_if",
            "walltime",
            "script",
            *(() if self.deviation else ("deviation",)),
        }
        settings: dict[str, Any] = self.model_dump(mode="json", exclude=silent)
        for segment in settings["run"]:
            for name in ("velocities", "forces"):
                segment.get("dump", {}).pop(name, None)
        return settings


def place_of(config: MDConfig, segment: int) -> str:
    """Name of a segment in a sentence."""
    return f"segment {segment} ({config.run[segment].ensemble})"
