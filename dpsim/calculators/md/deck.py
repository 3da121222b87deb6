"""The input deck of a run: segments in order, checkpoints between chunks, and where a killed run goes on.

Every segment is run in chunks of the checkpoint interval. LAMMPS sets itself up anew at the start of each chunk
and the noise of a Langevin thermostat is seeded from the step, so a run that begins at a checkpoint does what the
unbroken one did. Thermo lines and dumps of each attempt go to files of their own; `output` joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.segments import Dynamics, MinimizeSegment, NPTSegment, NVESegment, interval_steps
from dpsim.errors import ConfigError

DATA_FILE = "start.data"
FINAL_DATA = "final.data"
FINAL_DUMP = "final.lammpstrj"
FINISHED = "dpsim finished"
"""Printed by the deck when the last segment has ended."""
MARKER = "dpsim segment"
"""Printed by the deck before each segment, with its number."""
THERMO_COLUMNS = ("step", "time", "temp", "pe", "ke", "etotal", "press", "vol")
SKIN = 1.0
"""Å added to the cutoff when neighbours are listed."""
WATER_MODULUS = 22_000.0
"""bar, bulk modulus that a barostat takes if none is given."""
_LARGEST_SEED = 899_999_999


@dataclass(frozen=True)
class Span:
    """One segment with its place on the axis of steps.

    Attributes
    ----------
    index
        Place in `MDConfig.run`.
    begin, end
        First and last step; a minimisation counts its own.
    time
        ps at the beginning.
    """

    index: int
    segment: MinimizeSegment | Dynamics
    begin: int
    end: int
    time: float


class Attempt(NamedTuple):
    """One start of LAMMPS for a run: its number from 1, and the segment and step it began with."""

    number: int
    segment: int
    step: int


def spans(config: MDConfig) -> tuple[Span, ...]:
    """Lay the segments of a run end to end."""
    result, step, time = [], 0, 0.0
    for index, segment in enumerate(config.run):
        if isinstance(segment, MinimizeSegment):
            result.append(Span(index, segment, 0, segment.steps, 0.0))
            continue
        result.append(Span(index, segment, step, step + segment.n_steps, time))
        step += segment.n_steps
        time += segment.n_steps * segment.step_length
    return tuple(result)


def first_span(layout: Sequence[Span], step: int | None) -> int:
    """Index of the segment that a run begins with: the first, or the one that goes on from `step`."""
    if step is None:
        return 0
    running = [s.index for s in layout if not isinstance(s.segment, MinimizeSegment) and s.begin <= step < s.end]
    return running[0] if running else len(layout)


def lammps_seed(seed: int) -> int:
    """Map any non-negative seed to the range LAMMPS accepts."""
    return seed % _LARGEST_SEED + 1


def dpsim_pair_lines(model: str, elements: Sequence[str]) -> list[str]:
    """Lines that select a frozen model for all atoms, elements in the order of the LAMMPS types."""
    return [f'pair_style dpsim "{model}"', f"pair_coeff * * {' '.join(elements)}"]


def with_route(pair_lines: Sequence[str], mpi: str | None) -> list[str]:
    """Pair lines of a frozen model with the keyword ``mpi``, by which ranks exchange data; None leaves it out."""
    style, *rest = pair_lines
    return [style if mpi is None else f"{style} mpi {mpi}", *rest]


def deviation_name(attempt: int) -> str:
    """File of the deviations of several models that one attempt wrote."""
    return f"deviation-{attempt:03d}.out"


def ensemble_pair_lines(models: Sequence[str], config: MDConfig, elements: Sequence[str], attempt: int) -> list[str]:
    """Lines that select the first model for all atoms, and have the deviation of all written in one attempt."""
    wanted = config.deviation
    assert wanted is not None
    words = [f"out_file {deviation_name(attempt)}", f"out_freq {config.deviation_steps}"]
    words += ["atomic"] if wanted.atomic else []
    words += [f"{key} {level!r}" for key in ("relative", "relative_v") if (level := getattr(wanted, key)) is not None]
    names = " ".join(f'"{model}"' for model in models)
    return [f"pair_style dpsim {names} {' '.join(words)}", f"pair_coeff * * {' '.join(elements)}"]


def dump_name(index: int, attempt: int) -> str:
    """File of the frames that one attempt wrote in one segment."""
    return f"dump-{index}-{attempt:03d}.lammpstrj"


def dump_columns(config: MDConfig, index: int) -> str:
    """Columns of the frames of a segment."""
    wanted = config.dumped(index)
    more = (" vx vy vz" if wanted.velocities else "") + (" fx fy fz" if wanted.forces else "")
    return f"id element xu yu zu{more}"


def check_box(config: MDConfig, pbc: Sequence[bool]) -> None:
    """Refuse what the boundary conditions do not allow, before anything runs.

    Raises
    ------
    ConfigError
        If a barostat or an RDF is asked for in a box that is not periodic.
    """
    if all(pbc):
        return
    for index, segment in enumerate(config.run):
        if isinstance(segment, NPTSegment):
            raise ConfigError(
                f"run[{index}]: npt needs a box periodic in x, y and z, the start has pbc {tuple(pbc)}: use nvt"
            )
    for name, what in (("rdf", "g(r)"), ("density", "a density")):
        if getattr(config.analyse, name) is not None:
            raise ConfigError(
                f"analyse.{name}: {what} needs a box periodic in x, y and z, the start has pbc {tuple(pbc)}: "
                f"remove {name}"
            )


@dataclass(frozen=True)
class DeckSettings:
    """What the deck needs beside the configuration.

    Attributes
    ----------
    elements
        Element of LAMMPS type 1, 2, …
    pair_lines
        The ``pair_style`` and ``pair_coeff`` lines.
    boundary
        Arguments of ``boundary``.
    open_box
        No direction is periodic: rotation is taken out of the first velocities too.
    seed
        Of velocities and noise.
    attempt
        Counted from 1; names the files of this attempt.
    restart
        Step and file of the checkpoint to go on from, or None for a fresh start.
    atom_style
        ``"atomic"``, or ``"spin"`` for atoms with magnetic moments, which stay as they are.
    ensemble
        Model files whose deviation is written along the dynamics, the one of `pair_lines` first; none: it is not.
    mpi
        How ranks exchange data: the keyword of ``pair_style dpsim``, if it is given.
    """

    elements: tuple[str, ...]
    pair_lines: tuple[str, ...]
    boundary: str
    open_box: bool
    seed: int
    attempt: int = 1
    restart: tuple[int, str] | None = None
    atom_style: str = "atomic"
    ensemble: tuple[str, ...] = ()
    mpi: str | None = None


def deck_text(config: MDConfig, settings: DeckSettings) -> str:
    """Write the input deck of one attempt.

    Parameters
    ----------
    config
        The run.
    settings
        See `DeckSettings`.
    """
    layout = spans(config)
    step = settings.restart[0] if settings.restart else None
    ahead = layout[first_span(layout, step) :]
    minimizes = bool(ahead) and isinstance(ahead[0].segment, MinimizeSegment)
    moving = _moving_pair_lines(config, settings)
    lines = _header(settings, with_route(settings.pair_lines, settings.mpi) if minimizes else moving)
    for span in ahead:
        lines += ["", f"# segment {span.index}: {span.segment.ensemble}", f'print "{MARKER} {span.index}"']
        if isinstance(span.segment, MinimizeSegment):
            lines += _minimize(span.segment)
            lines += moving if settings.ensemble else []
        else:
            fresh = step is None and span.begin == 0 and config.velocities == "create"
            lines += _first_velocities(span.segment, settings) if fresh else []
            lines += _dynamics(config, span, span.segment, settings)
    return "\n".join([*lines, "", *_footer(settings)]) + "\n"


def _header(settings: DeckSettings, pair_lines: Sequence[str]) -> list[str]:
    read = f"read_restart {settings.restart[1]}" if settings.restart else f"read_data {DATA_FILE}"
    return [
        f"# attempt {settings.attempt}; lengths in angstrom, energies in eV, times in ps, pressures in bar",
        "echo none",
        "units metal",
        f"atom_style {settings.atom_style}",
        f"boundary {settings.boundary}",
        "newton on",
        read,
        "",
        *pair_lines,
        "",
        f"neighbor {SKIN:g} bin",
        "neigh_modify every 1 delay 0 check yes",
        f"thermo_style custom {' '.join(THERMO_COLUMNS)}",
        "thermo_modify line yaml flush yes lost error format float %.15g",
        # Delayed until each chunk begins: the noise of a chunk depends on its first step only.
        f"variable noise equal (({lammps_seed(settings.seed)}+step)%{_LARGEST_SEED})+1",
    ]


def _moving_pair_lines(config: MDConfig, settings: DeckSettings) -> list[str]:
    """Pair lines of the dynamics. A minimisation counts steps of its own, and has no deviation."""
    if not settings.ensemble:
        return with_route(settings.pair_lines, settings.mpi)
    lines = ensemble_pair_lines(settings.ensemble, config, settings.elements, settings.attempt)
    return with_route(lines, settings.mpi)


def _minimize(segment: MinimizeSegment) -> list[str]:
    return [
        "thermo 10",
        "min_style cg",
        f"minimize {segment.energy_tolerance:g} {segment.force_tolerance:g} {segment.steps} {10 * segment.steps}",
        "reset_timestep 0 time 0.0",
    ]


def _first_velocities(segment: Dynamics, settings: DeckSettings) -> list[str]:
    temperature = segment.temperature if isinstance(segment, NVESegment) else segment.temperature[0]
    rotation = "yes" if settings.open_box else "no"
    # "loop all" draws in the order of the atom ids, so velocities do not depend on the number of ranks.
    drawn = f"create {temperature!r} {lammps_seed(settings.seed)}"
    return [f"velocity all {drawn} mom yes rot {rotation} dist gaussian loop all"]


def _dynamics(config: MDConfig, span: Span, segment: Dynamics, settings: DeckSettings) -> list[str]:
    timestep = segment.step_length
    fixes, noise = _integrators(span.index, segment)
    chunk = interval_steps(config.checkpoint.every, timestep)
    commands = [f'"unfix noise{span.index}" "{noise}"'] if noise else []
    commands += ['"write_restart checkpoint.tmp"', '"shell mv checkpoint.tmp checkpoint-$(step:%.0f).restart"']
    dump, every = f"dump{span.index}", interval_steps(segment.dump.every, timestep)
    return [
        f"timestep {timestep!r}",
        f"thermo {interval_steps(segment.thermo.every, timestep)}",
        *fixes,
        *([noise.replace("${noise}", "$(v_noise:%.0f)")] if noise else []),
        f"dump {dump} all custom {every} {dump_name(span.index, settings.attempt)} {dump_columns(config, span.index)}",
        f"dump_modify {dump} element {' '.join(settings.elements)} sort id format float %.10g",
        f"run {span.end} upto start {span.begin} stop {span.end} post no every {chunk} &\n    {' '.join(commands)}",
        f"undump {dump}",
        *([f"unfix noise{span.index}"] if noise else []),
        *(f"unfix {fix.split()[1]}" for fix in reversed(fixes)),
    ]


def _integrators(index: int, segment: Dynamics) -> tuple[list[str], str | None]:
    """Return the fixes that move atoms and cell, and that of the random numbers if there is one."""
    fix = f"fix integrate{index} all"
    if isinstance(segment, NVESegment):
        return [f"{fix} nve"], None
    hot = f"{segment.temperature[0]!r} {segment.temperature[1]!r} {segment.damping!r}"
    noises = {
        "langevin": f"fix noise{index} all langevin {hot} ${{noise}}",
        "csvr": f"fix noise{index} all temp/csvr {hot} ${{noise}}",
    }
    noise = noises.get(segment.thermostat)
    alone = [f"{fix} nve"] if noise else [f"{fix} nvt temp {hot}"]
    # The noise pushes the whole, which is taken back from the velocities. LAMMPS's own "zero yes" takes equal parts of
    # the force from atoms of any mass, so that light ones are too hot: a molecule of methanol by half.
    still = [f"fix still{index} all momentum 1 linear 1 1 1"] if segment.thermostat == "langevin" else []
    if not isinstance(segment, NPTSegment):
        return [*alone, *still], noise
    keyword = {"isotropic": "iso", "anisotropic": "aniso", "triclinic": "tri"}[segment.coupling]
    pressed = f"{keyword} {segment.pressure[0]!r} {segment.pressure[1]!r} {segment.pressure_damping!r}"
    if segment.barostat == "berendsen":
        modulus = WATER_MODULUS if segment.bulk_modulus is None else segment.bulk_modulus
        return [*alone, *still, f"fix press{index} all press/berendsen {pressed} modulus {modulus!r}"], noise
    # The corner stays put. LAMMPS's own choice, the centre, is computed again at a restart and differs in the last bit.
    pressed += " fixedpoint 0.0 0.0 0.0"
    return [f"{fix} nph {pressed}" if noise else f"{fix} npt temp {hot} {pressed}", *still], noise


def _footer(settings: DeckSettings) -> list[str]:
    elements = " ".join(settings.elements)
    return [
        "# the state at the end",
        f"write_data {FINAL_DATA} nocoeff",
        f"write_dump all custom {FINAL_DUMP} id element xu yu zu vx vy vz &",
        f"    modify element {elements} sort id format float %.17g",
        f'print "{FINISHED}"',
    ]
