"""Segments of a molecular dynamics run: ensembles, ramps of temperature and pressure, what is written how often.

Only declarations live here (no torch, no ASE), so that a workflow can be validated in an instant.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from dpsim.config import Config, Energy, Force, Pressure, Temperature, Time, TimeStep
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


class DumpConfig(Output):
    """How often a frame goes to the trajectory, and what it holds beside positions and cell."""

    velocities: bool = False
    """Whether frames have velocities (always, where `analyse` asks for a vdos); read back as ASE's momenta."""
    forces: bool = False
    """Whether frames have the forces of the model, eV/Å, as array ``dpsim_forces``."""


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
    timestep: TimeStep | None = None
    """ps; if absent, that of the segment before, or 0.5 fs in the first."""
    time: Time | None = None
    """Length of the segment in ps, a total: a resumed run does not extend it."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the segment in steps, instead of `time`."""
    dump: DumpConfig = DumpConfig(every="0.1 ps")
    """How often a frame goes to the trajectory, and whether with velocities and forces."""
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
    thermostat: Literal["nose-hoover", "langevin", "csvr"] = "nose-hoover"
    """Deterministic chain, friction and noise on each atom, or velocities rescaled by a random factor (Bussi 2007)."""
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
    barostat: Literal["nose-hoover", "berendsen"] = "nose-hoover"
    """Martyna-Tobias-Klein with a chain, which gives the ensemble; or Berendsen's, which only relaxes towards it."""
    bulk_modulus: Annotated[Pressure, Field(gt=0)] | None = None
    """bar, roughly that of the material, by which `berendsen` scales its steps; if absent, 22 000 (water)."""

    @model_validator(mode="after")
    def _barostat_fits(self) -> Self:
        if self.barostat == "nose-hoover" and self.bulk_modulus is not None:
            raise ValueError("bulk_modulus is only used by barostat: berendsen, remove it")
        if self.barostat == "berendsen" and self.coupling == "triclinic":
            raise ValueError("barostat: berendsen does not change angles: use coupling: anisotropic, or nose-hoover")
        return self


Segment = Annotated[MinimizeSegment | NVESegment | NVTSegment | NPTSegment, Field(discriminator="ensemble")]
Dynamics = NVESegment | NVTSegment | NPTSegment


def fill_timesteps(segments: tuple[Any, ...]) -> tuple[Any, ...]:
    filled, current = [], DEFAULT_TIMESTEP
    for segment in segments:
        if isinstance(segment, _Dynamics):
            current = segment.timestep or current
            segment = segment.model_copy(update={"timestep": current})
        filled.append(segment)
    return tuple(filled)
