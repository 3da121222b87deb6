"""Outputs of a molecular dynamics run: tables, trajectory, last state, analysis."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.lammps_data import read_lammps_data, type_labels
from dpsim.calculators.md.analysis import (
    Msd,
    Peak,
    Rdf,
    block_average,
    compare_rdf,
    energy_drift,
    mass_density,
    msd,
    rdf,
    rdf_settings,
)
from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.deck import Span
from dpsim.calculators.md.deviation_output import MAX_FORCE
from dpsim.calculators.md.output import FORCES, MDFrame, ThermoRow
from dpsim.calculators.md.record import Record, Stop, StoppedRecord
from dpsim.calculators.md.segments import MinimizeSegment
from dpsim.calculators.md.vibrations import vdos
from dpsim.data.files import new_file, write_json, write_text
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

THERMO_HEADER = (
    "segment", "ensemble", "step", "time_ps", "temperature_K", "potential_eV", "kinetic_eV", "total_eV",
    "pressure_bar", "volume_A3",
)  # fmt: skip
DEVIATION = "model_devi.out"
"""Deviation of several models; the columns are those of DeePMD-kit."""
SETTLED = 0.2
"""Part of a thermostatted segment that averages leave out."""


@dataclass(frozen=True)
class MDResult:
    """Where the outputs of a run are, and its key figures.

    Attributes
    ----------
    steps_per_second
        Of the integrator, set-up and analysis not counted.
    attempts
        Number of times LAMMPS was started.
    """

    thermo: Path
    trajectory: Path
    final: Path
    final_data: Path
    analysis: Path
    steps_per_second: float
    attempts: int
    summary: dict[str, Any]


def collect(
    config: MDConfig,
    record: Record,
    out: Path,
    *,
    ranks: int,
    reference: Sequence[Atoms] | None,
    stop: Stop | None = None,
    engine: str = "lammps",
) -> MDResult:
    """Turn what a run left behind into its outputs.

    Parameters
    ----------
    config
        The run.
    record
        What it left behind.
    out
        Folder to write into.
    ranks
        Recorded.
    reference
        Frames whose g(r) is put beside.
    stop
        Where a condition ended it: what lies beyond is left out, and so are analyses that need more.
    engine
        Recorded.
    """
    out.mkdir(parents=True, exist_ok=True)
    if stop is not None:
        record = StoppedRecord(record, stop)
    rows, periodic = record.rows(), bool(all(record.start.pbc))
    write_thermo(out / "thermo.csv", rows, config, periodic=periodic)
    frames = write_trajectory(out / "trajectory.extxyz", record, config)
    write_frames(out / "final.extxyz", [record.last()])
    record.write_final_data(out / "final.data")
    seconds, steps = record.speed()
    summary: dict[str, Any] = {
        "atoms": len(record.start), "formula": record.start.get_chemical_formula(), "ranks": ranks,
        "engine": engine, "frames": frames, "attempts": record.starts,
        "steps_per_second": steps / seconds if seconds > 0 else None, "loop_seconds": seconds,
        "segments": [_segment_summary(span, rows, record) for span in record.layout],
    }  # fmt: skip
    if stop is not None:
        summary["stopped"] = {
            "segment": stop.segment, "step": stop.step, "time_ps": stop.time, "reason": stop.reason,
        }  # fmt: skip
    analyses: dict[str, Callable[[], dict[str, Any]]] = {
        "rdf": lambda: _rdf_outputs(config, record, out, reference),
        "msd": lambda: _msd_outputs(config, record, out),
        "vdos": lambda: _vdos_outputs(config, record, out),
        "density": lambda: _density_outputs(config, record, rows, out),
        "drift": lambda: _drift_outputs(config, summary["segments"]),
    }
    for name, make in analyses.items():
        if getattr(config.analyse, name) is None:
            continue
        try:
            summary[name] = make()
        except DataError as error:
            if stop is None:
                raise
            summary[name] = {"left_out": str(error)}
    if config.deviation is not None:
        summary["deviation"] = {**_deviation_outputs(record, out), "relative": config.deviation.relative}
    write_json(out / "analysis.json", summary)
    names = ("thermo.csv", "trajectory.extxyz", "final.extxyz", "final.data", "analysis.json")
    thermo, frames_path, final, final_data, analysis = (out / name for name in names)
    speed = steps / seconds if seconds > 0 else math.nan
    return MDResult(thermo, frames_path, final, final_data, analysis, speed, record.starts, summary)


def _deviation_outputs(record: Record, out: Path) -> dict[str, Any]:
    lines = record.deviations()
    write_text(out / DEVIATION, "".join(lines))
    forces = np.array([float(line.split()[MAX_FORCE]) for line in lines[1:]])
    largest = {"max": float(forces.max()), "mean": float(forces.mean())} if len(forces) else {}
    return {"lines": len(forces), "max_devi_f": largest}


def write_thermo(path: Path, rows: Iterable[ThermoRow], config: MDConfig, *, periodic: bool) -> None:
    """Write ``thermo.csv``; pressure and volume stay empty where the box is not periodic and they mean nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(THERMO_HEADER)
    for row in rows:
        cell = [repr(x) if periodic and math.isfinite(x) else "" for x in (row.pressure, row.volume)]
        numbers = (row.time, row.temperature, row.potential, row.kinetic, row.total)
        writer.writerow([row.segment, config.run[row.segment].ensemble, row.step, *map(repr, numbers), *cell])
    write_text(path, text.getvalue())


def write_trajectory(path: Path, record: Record, config: MDConfig) -> int:
    """Write all frames as extended XYZ with step and time, and what `dump` asks for; return their number."""
    count = 0

    def labelled() -> Iterator[Atoms]:
        nonlocal count
        for frame in record.frames():
            wanted = config.dumped(frame.segment)
            for name, kept in (("momenta", wanted.velocities), (FORCES, wanted.forces)):
                if not kept:
                    frame.atoms.arrays.pop(name, None)
            frame.atoms.info |= {
                "step": frame.step, "time_ps": frame.time, "segment": frame.segment,
                "ensemble": config.run[frame.segment].ensemble,
            }  # fmt: skip
            count += 1
            yield frame.atoms

    write_frames(path, labelled())
    return count


def write_frames(path: Path, frames: Iterable[Atoms]) -> None:
    """Write frames one by one under a temporary name, then rename."""
    from ase.io.extxyz import write_extxyz

    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for atoms in frames:
            write_extxyz(file, [atoms], write_results=False)


def _segment_summary(span: Span, rows: Sequence[ThermoRow], record: Record) -> dict[str, Any]:
    own = [row for row in rows if row.segment == span.index]
    summary: dict[str, Any] = {"index": span.index, "ensemble": span.segment.ensemble, "rows": len(own)}
    if isinstance(span.segment, MinimizeSegment) or not own:
        return summary | {"steps": max((row.step for row in own), default=0)}
    summary |= {
        "begin": span.begin,
        "end": span.end,
        "timestep_ps": span.segment.step_length,
        "time_ps": own[-1].time - own[0].time,
    }
    # A thermostat needs a moment to reach its temperature; NVE has nothing to reach.
    used = own if span.segment.ensemble == "nve" else own[int(SETTLED * len(own)) :]
    quantities = {"temperature_K": [row.temperature for row in used], "potential_eV": [row.potential for row in used]}
    if all(record.start.pbc):
        quantities |= {"pressure_bar": [row.pressure for row in used], "volume_A3": [row.volume for row in used]}
    for name, values in quantities.items():
        if not np.isfinite(values).all():  # a calculator without stress
            continue
        summary[name] = block_average(np.array(values))._asdict()
    if span.segment.ensemble == "nve" and len(own) >= 3:
        times, totals = np.array([row.time for row in own]), np.array([row.total for row in own])
        drift = energy_drift(times, totals, len(record.start))
        summary["energy_drift"] = {
            "slope_meV_atom_ns": drift.slope_per_ns, "error_meV_atom_ns": drift.error_per_ns,
            "slope_meV_atom_ps": drift.slope, "error_meV_atom_ps": drift.error,
            "fluctuation_meV_atom": drift.fluctuation, "intercept_eV": drift.intercept,
        }  # fmt: skip
    return summary


def check_analyses(config: MDConfig, atoms: Atoms) -> None:
    """Refuse analyses that the structure does not allow, before hours are spent on the run.

    Raises
    ------
    DataError
        If an element does not occur, or the range of g(r) does not fit into the cell.
    """
    if (wanted := config.analyse.rdf) is not None:
        rdf_settings(atoms, wanted.pairs, wanted.r_max, images=wanted.images)
    present = set(atoms.get_chemical_symbols())
    for name in ("msd", "vdos"):
        chosen = getattr(getattr(config.analyse, name), "species", None) or ()
        if absent := [element for element in chosen if element not in present]:
            raise DataError(
                f"analyse.{name}.species: no {absent[0]} in the start structure, which holds {sorted(present)}"
            )


def reference_frames(paths: Sequence[Path], type_map: Sequence[str], elements: Sequence[str]) -> list[Atoms]:
    """Frames of the reference whose g(r) can be put beside that of the run: periodic, with all its elements.

    Parameters
    ----------
    paths
        Files that ASE reads, and data sets.
    type_map
        Elements of a data set that names none.
    elements
        Elements of the run.

    Raises
    ------
    DataError
        If there is none, or a file cannot be read.
    """
    found = [atoms for path in paths for atoms in read_frames(path, type_map)]
    used = [atoms for atoms in found if all(atoms.pbc) and set(elements) <= set(atoms.get_chemical_symbols())]
    if not used:
        raise DataError(
            f"reference {', '.join(map(str, paths))}: none of its {len(found)} frames is periodic in x, y and z "
            f"and holds {', '.join(elements)}: name other frames or remove reference"
        )
    return used


def _rdf_outputs(whole: MDConfig, record: Record, out: Path, reference: Sequence[Atoms] | None) -> dict[str, Any]:
    config = whole.analyse.rdf
    assert config is not None
    segments = whole.segments_of(config.segments)
    frames = (frame.atoms for frame in record.frames(segments))
    found = rdf(frames, config.pairs, config.r_max, config.bins, images=config.images)
    r_max = float(found.r[-1] + 0.5 * found.width)
    other = None
    if reference is not None:
        # Labelled cells are often smaller than that of the run: their images count.
        other = rdf(reference, tuple(found.g), r_max, config.bins, images=True)
    write_rdf(out / "rdf.csv", found, other)
    summary: dict[str, Any] = {"frames": found.frames, "r_max": r_max, "bins": config.bins, "segments": list(segments)}
    summary["reference_frames"] = other.frames if other is not None else None
    summary["pairs"] = {}
    for pair, g in found.g.items():
        comparison = compare_rdf(found.r, g, other.g[pair] if other is not None else g)
        entry: dict[str, Any] = {"first_peak": _peak(comparison.first_peak)}
        if other is not None:
            entry |= {"reference_peak": _peak(comparison.reference_peak), "overlap": comparison.overlap}
        summary["pairs"]["-".join(pair)] = entry
    return summary


def _peak(peak: Peak | None) -> dict[str, float] | None:
    return None if peak is None else {"r_A": peak.r, "g": peak.g}


def read_frames(path: Path, type_map: Sequence[str]) -> Iterator[Atoms]:
    """Frames of a file that ASE reads, or of a data set, as structures.

    Parameters
    ----------
    type_map
        Elements of a data set that names none.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    from ase import Atoms
    from ase.io import iread

    if path.is_dir():
        from dpsim.data.dataset import find_systems, open_dataset
        from dpsim.data.npy import read_type_map

        named = any(read_type_map(folder) for folder, _ in find_systems(path))
        data = open_dataset([path], None if named or not type_map else type_map)
        symbols = np.array(data.type_map)
        for index in range(len(data)):
            frame = data[index]
            real = frame.types >= 0
            yield Atoms(symbols[frame.types[real]], frame.positions[real], cell=frame.cell, pbc=frame.cell is not None)
        return
    if type_labels(path):
        yield read_lammps_data(path)
        return
    try:
        yield from iread(path, index=":")
    except (OSError, ValueError, KeyError, IndexError, StopIteration, AssertionError) as error:
        raise DataError(f"{path} cannot be read by ASE: {error or type(error).__name__}") from None
    except Exception as error:
        if type(error).__module__.startswith("ase."):
            raise DataError(f"{path} cannot be read by ASE: {error}") from None
        raise


def write_rdf(path: Path, found: Rdf, reference: Rdf | None) -> None:
    """Write ``rdf.csv``: ``r_A``, one column for each pair, and one ending in ``_reference`` where there is one."""
    columns = {"r_A": found.r}
    for pair, g in found.g.items():
        columns["-".join(pair)] = g
        if reference is not None:
            columns["-".join(pair) + "_reference"] = reference.g[pair]
    write_columns(path, columns)


def _msd_outputs(config: MDConfig, record: Record, out: Path) -> dict[str, Any]:
    settings = config.analyse.msd
    assert settings is not None
    segments = config.segments_of(settings.segments)
    frames = list(record.frames(segments))
    interval = _spacing("msd", segments, frames)
    positions = np.array([frame.atoms.positions for frame in frames])
    symbols, masses = record.start.get_chemical_symbols(), record.start.get_masses()
    found = msd(positions, symbols, interval, settings.species, settings.fit, settings.blocks, masses)
    write_msd(out / "msd.csv", found)
    species = {
        element: {
            "diffusion_A2_per_ps": value,
            "error_A2_per_ps": _finite(error),
            "block_error_A2_per_ps": _finite(found.block_errors[element]),
            "last_A2": float(found.values[element][-1]),
        }
        for element, (value, error) in found.diffusion.items()
    }
    return {"frames": len(frames), "segments": list(segments), "species": species}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spacing(name: str, segments: Sequence[int], frames: Sequence[MDFrame]) -> float:
    """Time in ps between frames, which must be the same throughout."""
    steps = np.diff([frame.time for frame in frames])
    if len(steps) and not np.allclose(steps, steps[0], rtol=1e-6):
        raise DataError(
            f"{name}: frames of segments {list(segments)} are not evenly spaced in time: give them the same dump.every"
        )
    return float(steps[0]) if len(steps) else 0.0


def _vdos_outputs(config: MDConfig, record: Record, out: Path) -> dict[str, Any]:
    settings = config.analyse.vdos
    assert settings is not None
    segments = config.segments_of(settings.segments)
    frames = list(record.frames(segments))
    velocities = np.array([frame.atoms.get_velocities() for frame in frames])
    start = record.start
    found = vdos(
        velocities, start.get_masses(), start.get_chemical_symbols(), _spacing("vdos", segments, frames),
        settings.species, settings.max_lag,
    )  # fmt: skip
    states = {f"{element}_per_THz": values for element, values in found.species.items()}
    write_columns(out / "vdos.csv", {"frequency_THz": found.frequency, "total_per_THz": found.total, **states})
    write_columns(out / "vacf.csv", {"time_ps": found.time, "correlation": found.correlation})
    peaks = {element: float(found.frequency[np.argmax(values)]) for element, values in found.species.items()}
    return {
        "frames": len(frames), "segments": list(segments), "highest_THz": found.highest,
        "resolution_THz": 1.0 / float(found.time[-1] + found.time[1]), "highest_peak_THz": peaks,
    }  # fmt: skip


def _density_outputs(config: MDConfig, record: Record, rows: Sequence[ThermoRow], out: Path) -> dict[str, Any]:
    settings = config.analyse.density
    assert settings is not None
    segments = config.segments_of(settings.segments)
    own = [row for row in rows if row.segment in segments]
    if not own:
        raise DataError(f"density: no line of thermo was recorded in segments {list(segments)}: run longer")
    values = mass_density(record.start.get_masses(), np.array([row.volume for row in own]))
    write_columns(out / "density.csv", {"time_ps": np.array([row.time for row in own]), "density_g_cm3": values})
    settled = [config.run[row.segment].ensemble == "nve" for row in own]
    used = values if all(settled) else values[int(SETTLED * len(values)) :]
    return {"segments": list(segments), "density_g_cm3": block_average(used)._asdict()}


def _drift_outputs(config: MDConfig, segments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for index in config.drift_segments:
        drift = segments[index].get("energy_drift")
        if drift is None:
            raise DataError(
                f"drift: segment {index} has {segments[index]['rows']} lines of thermo, a drift needs 3: record them "
                "more often (thermo.every) or run longer"
            )
        found[str(index)] = {
            "slope_meV_atom_ns": drift["slope_meV_atom_ns"],
            "error_meV_atom_ns": drift["error_meV_atom_ns"],
        }
    return {"segments": found}


def write_msd(path: Path, found: Msd) -> None:
    """Write ``msd.csv``: ``time_ps`` and one column in Å² for each element."""
    write_columns(
        path, {"time_ps": found.time, **{f"{element}_A2": values for element, values in found.values.items()}}
    )


def write_columns(path: Path, columns: dict[str, Any]) -> None:
    """Write a CSV file with one column of numbers for each name."""
    lines = [",".join(columns)]
    lines += [",".join(f"{value:.8g}" for value in row) for row in zip(*columns.values(), strict=True)]
    write_text(path, "\n".join(lines) + "\n")
