"""What a molecular dynamics stage is told: where to start, which segments to run, what to analyse.

Only declarations live here (no torch, no ASE), so that a workflow can be validated in an instant.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from data_tools.structures import StructureConfig
from dpsim.config import Config, Energy, Force, Fraction, Length, Pressure, Temperature, Time
from dpsim.errors import ConfigError
from dpsim.units import parse_quantity

DEFAULT_TIMESTEP = 0.0005
"""Time step in ps of a segment that names none and follows none: safe for O-H stretching."""

_STEPS = re.compile(r"^\s*(\d+)\s*(?:steps?)?\s*$")


def _read_interval(value: Any) -> str:
    if not isinstance(value, bool) and isinstance(value, int | str) and (match := _STEPS.match(str(value))):
        if int(match[1]) < 1:
            raise ValueError("an interval is at least 1 step")
        return f"{int(match[1])} steps"
    try:
        time = parse_quantity(value, "time", bare=False)
    except ConfigError:
        raise ValueError(f"{value!r} is not an interval: write steps ('100 steps') or a time ('50 fs')") from None
    if time <= 0:
        raise ValueError(f"{value!r} must be longer than zero")
    return f"{time!r} ps"


Interval = Annotated[
    str,
    BeforeValidator(_read_interval),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}], "description": "'100 steps' or '50 fs'"},
        mode="validation",
    ),
]
"""A number of steps or a time, kept as text: ``"100 steps"`` or ``"0.05 ps"``."""


def interval_steps(interval: str, timestep: float) -> int:
    """Return an interval as a whole number of steps, at least one.

    Parameters
    ----------
    interval
        As `Interval` keeps it.
    timestep
        ps.
    """
    number, unit = interval.split()
    return int(number) if unit == "steps" else max(1, round(float(number) / timestep))


def _read_ramp(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


TemperatureRamp = Annotated[tuple[Temperature, Temperature], BeforeValidator(_read_ramp)]
"""K at the beginning and the end of a segment; a single value holds throughout."""
PressureRamp = Annotated[tuple[Pressure, Pressure], BeforeValidator(_read_ramp)]
"""bar at the beginning and the end of a segment; a single value holds throughout."""


def _positive(ramp: tuple[float, float]) -> tuple[float, float]:
    if min(ramp) <= 0:
        raise ValueError(f"a thermostat needs a temperature above 0 K, found {min(ramp):g} K")
    return ramp


PositiveRamp = Annotated[TemperatureRamp, AfterValidator(_positive)]


class Output(Config):
    """How often something is written."""

    every: Interval


class DeviationConfig(Output):
    """How far several models are from each other along the dynamics; the first of them drives."""

    atomic: bool = False
    """Whether a column for the force on each atom follows."""
    relative: Force | None = None
    """Level in eV/Å: deviations of forces are divided by the length of the mean force plus this."""
    relative_v: Annotated[Energy, Field(ge=0)] | None = None
    """Level in eV: deviations of virials are divided by the norm of the mean virial of an atom plus this."""


class MinimizeSegment(Config):
    """Relax the atoms at fixed cell before dynamics begins (conjugate gradients)."""

    ensemble: Literal["minimize"]
    force_tolerance: Force = 0.01
    """Stop when the length of the global force vector falls below this; eV/Å."""
    energy_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Stop when the energy changes by less than this fraction in an iteration."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Iterations at most."""


class _Dynamics(Config):
    timestep: Time | None = None
    """ps; if absent, that of the segment before, or 0.5 fs in the first."""
    time: Time | None = None
    """Length of the segment in ps, a total: a resumed run does not extend it."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the segment in steps, instead of `time`."""
    dump: Output = Output(every="0.1 ps")
    """How often a frame goes to the trajectory."""
    thermo: Output = Output(every="0.01 ps")
    """How often temperature, energies and pressure are recorded."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.time is None) == (self.steps is None):
            raise ValueError("give the length of the segment once, as 'time' (e.g. '5 ps') or as 'steps'")
        return self

    @property
    def step_length(self) -> float:
        """Time step in ps."""
        return DEFAULT_TIMESTEP if self.timestep is None else self.timestep

    @property
    def n_steps(self) -> int:
        """Length of the segment in steps."""
        if self.steps is not None:
            return self.steps
        assert self.time is not None
        return max(1, math.ceil(self.time / self.step_length - 1e-9))


class NVESegment(_Dynamics):
    """Constant energy: tests that forces are the derivative of the energy."""

    ensemble: Literal["nve"]
    temperature: Temperature | None = None
    """K of the velocities created at the start; only in the segment that begins the dynamics."""


class _Thermostatted(_Dynamics):
    temperature: PositiveRamp
    """K, one value or [from, to]."""
    thermostat: Literal["nose-hoover", "langevin"] = "nose-hoover"
    """Deterministic chain, or friction and noise."""
    damping: Time = 0.1
    """Relaxation time of the temperature in ps."""


class NVTSegment(_Thermostatted):
    """Constant volume and temperature."""

    ensemble: Literal["nvt"]


class NPTSegment(_Thermostatted):
    """Constant pressure and temperature."""

    ensemble: Literal["npt"]
    pressure: PressureRamp
    """bar, one value or [from, to]."""
    pressure_damping: Time = 1.0
    """Relaxation time of the pressure in ps."""
    coupling: Literal["isotropic", "anisotropic", "triclinic"] = "isotropic"
    """Which of the cell's components move: together, three lengths, or all six."""


Segment = Annotated[MinimizeSegment | NVESegment | NVTSegment | NPTSegment, Field(discriminator="ensemble")]
Dynamics = NVESegment | NVTSegment | NPTSegment


class RdfConfig(Config):
    """Radial distribution functions."""

    r_max: Length | None = None
    """Å; if absent, 6 Å or half the smallest height of the cell, whichever is less."""
    bins: Annotated[int, Field(ge=10, le=5000)] = 150
    pairs: tuple[tuple[str, str], ...] | None = None
    """Pairs of elements, e.g. [[O, O], [O, H]] or ["O-O", "O-H"]; if absent, all."""
    images: bool = False
    """Whether `r_max` may pass half the smallest height of the cell, counting periodic images."""
    segments: tuple[int, ...] | None = None
    """Which segments of `run` to average over, counted from 0; if absent, the last."""

    @field_validator("pairs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [pair.split("-") if isinstance(pair, str) else pair for pair in value] if isinstance(value, list) else value
        )


class MsdConfig(Config):
    """Mean squared displacement and diffusion coefficients."""

    species: tuple[str, ...] | None = None
    """Elements; if absent, all."""
    fit: tuple[Fraction, Fraction] = (0.2, 0.5)
    """Part of the lag times that the straight line is fitted to."""
    segments: tuple[int, ...] | None = None
    """Which segments of `run` to use, counted from 0 and contiguous; if absent, the last."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.fit[0] >= self.fit[1]:
            raise ValueError(f"fit must go from a smaller to a larger fraction, found {list(self.fit)}")
        used = self.segments or ()
        if any(b != a + 1 for a, b in pairwise(used)):
            raise ValueError(f"segments must follow each other, found {list(used)}: displacements cannot jump")
        return self


class AnalyseConfig(Config):
    """What is computed from the trajectory; energy drift, temperature and pressure always are."""

    rdf: RdfConfig | None = None
    msd: MsdConfig | None = None


def _read_analyses(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    merged: dict[str, Any] = {}
    for item in value:
        entry = {item: {}} if isinstance(item, str) else item
        if not isinstance(entry, dict):
            raise ValueError(f"{item!r} is not an analysis: write a name (rdf, msd) or {{name: {{options}}}}")
        for name, options in entry.items():
            if name in merged:
                raise ValueError(f"analysis {name!r} is given twice")
            merged[name] = {} if options is None else options
    return merged


class StopConfig(Config):
    """Conditions that end a run as failed; lost atoms and NaN always do."""

    max_temperature: Annotated[Temperature, Field(gt=0)] = 20_000.0
    """K; the default is passed only by a simulation that has blown up."""
    max_deviation_force: Annotated[Force, Field(gt=0)] | None = None
    """Largest deviation of the force on an atom that is tolerated, eV/Å (or relative, as it is written)."""


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


def _fill_timesteps(segments: tuple[Any, ...]) -> tuple[Any, ...]:
    filled, current = [], DEFAULT_TIMESTEP
    for segment in segments:
        if isinstance(segment, _Dynamics):
            current = segment.timestep or current
            segment = segment.model_copy(update={"timestep": current})
        filled.append(segment)
    return tuple(filled)


def _one_or_many(schema: dict[str, Any]) -> None:
    array = {key: schema.pop(key) for key in ("type", "items", "minItems", "maxItems") if key in schema}
    schema["anyOf"] = [array["items"], array]


class MDConfig(Config):
    """Molecular dynamics with a frozen model."""

    start: Start
    """A structure to build, ``{frames: label.frames, index: 0, supercell: [2, 2, 2]}``, or just a reference."""
    run: Annotated[tuple[Segment, ...], Field(min_length=1, json_schema_extra=_one_or_many)]
    """One segment or a list of segments, run in order."""
    analyse: Annotated[AnalyseConfig, BeforeValidator(_read_analyses)] = AnalyseConfig()
    """rdf, msd; a list of names or {name: {options}}."""
    reference: str | None = None
    """Frames whose RDF is put beside that of the run: a reference, a file that ASE reads, or a data set."""
    engine: Literal["lammps"] = "lammps"
    seed: Annotated[int, Field(ge=0)] | None = None
    """Of the velocities and the noise; if absent, the workflow's."""
    velocities: Literal["create", "keep"] = "create"
    """Draw velocities from the first temperature, or keep those of the start frame."""
    checkpoint: Output = Output(every="500 steps")
    """How often the state is saved, from which a killed run goes on."""
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
        return _fill_timesteps(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for index, segment in enumerate(self.run):
            if index and isinstance(segment, MinimizeSegment):
                raise ValueError(f"run[{index}]: a minimisation can only be the first segment")
        self._check_velocities()
        self._check_deviation()
        for name in ("rdf", "msd"):
            self._check_segments(name, getattr(self.analyse, name))
        if self.reference is not None and self.analyse.rdf is None:
            raise ValueError("reference is only used by the rdf analysis: add 'analyse: [rdf]'")
        return self

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
        lengths = {s.step_length for s in self.run if isinstance(s, _Dynamics)}
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
        first = next(s for s in self.run if isinstance(s, _Dynamics))
        return interval_steps(self.deviation.every, first.step_length)

    def _check_segments(self, name: str, analysis: RdfConfig | MsdConfig | None) -> None:
        for index in (analysis.segments if analysis is not None else None) or ():
            if not 0 <= index < len(self.run) or isinstance(self.run[index], MinimizeSegment):
                raise ValueError(
                    f"analyse.{name}.segments: {index} is not a dynamics segment of run (0 to {len(self.run) - 1})"
                )
        if analysis is None:
            return
        if isinstance(self.run[-1], MinimizeSegment):
            raise ValueError(f"analyse.{name} needs a segment of dynamics, but run only minimises")
        used = [s for i in analysis.segments or (len(self.run) - 1,) if isinstance(s := self.run[i], _Dynamics)]
        counts = [s.n_steps // interval_steps(s.dump.every, s.step_length) for s in used]
        if sum(counts) < (needed := 4 if name == "msd" else 1):
            raise ValueError(
                f"analyse.{name} needs at least {needed} frames, but dump.every {used[-1].dump.every} gives "
                f"{sum(counts)}: dump more often"
            )
