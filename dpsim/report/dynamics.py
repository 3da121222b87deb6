"""The part of a report about molecular dynamics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.errors import DataError
from dpsim.report.artifacts import Array, read_columns, read_object, read_rows
from dpsim.report.blocks import Block, Card, Picture, Section, Table, duration, number
from dpsim.report.figures import INK, MUTED, SERIES, Canvas, thin
from dpsim.report.motion import (
    Draw,
    Spans,
    density_pictures,
    deviation_pictures,
    msd_pictures,
    msd_table,
    over_time,
    stopped_card,
    vdos_pictures,
    with_error,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "_reference"
_ANALYSES = ("rdf", "msd", "vdos", "density", "drift")


def md_block(section: Section, canvas: Canvas) -> Block | None:
    """Temperature, energies, drift, g(r) and displacements of one run."""
    analysis, thermo = read_object(section.out / "analysis.json"), read_columns(section.out / "thermo.csv")
    if not analysis and not thermo:
        return None
    if analysis.get("starts"):
        return _many_block(section, analysis, canvas)
    segments = [s for s in analysis.get("segments") or [] if s.get("ensemble") != "minimize"]
    engine = {"ase": "ASE"}.get(str(analysis.get("engine")), "LAMMPS")
    pictures: list[Picture] = []
    if thermo:
        pictures += _thermo_pictures(section, thermo, segments, analysis.get("atoms"), canvas)
    pictures += _rdf_pictures(section, analysis, canvas)
    pictures += msd_pictures(section, canvas)
    pictures += vdos_pictures(section, analysis, canvas) + density_pictures(section, analysis, canvas)
    pictures += deviation_pictures(section, analysis, canvas)
    candidates = (_segment_table(segments), _rdf_table(analysis), msd_table(analysis))
    tables = [table.compact() for table in candidates if table.rows]
    facts = [(k, number(analysis[k])) for k in ("atoms", "ranks", "frames") if analysis.get(k) is not None]
    if analysis.get("formula"):
        facts.insert(0, ("formula", str(analysis["formula"])))
    if isinstance(speed := analysis.get("steps_per_second"), int | float):
        facts.append(("speed", f"{number(speed)} steps/s"))
    if isinstance(seconds := analysis.get("loop_seconds"), int | float):
        facts.append((f"time in {engine}", duration(seconds)))
    if (attempts := analysis.get("attempts", 1)) > 1:
        facts.append(("continued from checkpoints", "once" if attempts == 2 else f"{attempts - 1} times"))
    lead = f"A simulation driven by the frozen model in {engine}."
    if any(s.get("energy_drift") for s in segments):
        lead += " The constant-energy segment shows whether forces are the derivative of the energy."
    if stopped := analysis.get("stopped"):
        lead += f" It was ended at step {number(stopped.get('step'))} because {stopped.get('reason')}."
    left_out = [f"{n} ({e['left_out']})" for n in _ANALYSES if (e := analysis.get(n) or {}).get("left_out")]
    if left_out:
        lead += f" Left out: {'; '.join(left_out)}."
    return Block(
        f"md-{''.join(c if c.isalnum() else '-' for c in section.name)}", "Molecular dynamics", section.name, lead,
        facts, [], pictures, tables, _cards(analysis, segments), {k: v for k, v in analysis.items() if k != "frames"},
    )  # fmt: skip


def _cards(analysis: dict[str, Any], segments: list[dict[str, Any]]) -> list[Card]:
    cards = stopped_card(analysis)
    drift = next((s["energy_drift"] for s in reversed(segments) if s.get("energy_drift")), None)
    if drift:
        note = f"rms fluctuation {number(drift.get('fluctuation_meV_atom'))} meV/atom"
        cards.append(Card("NVE energy drift", number(_per_ns(drift)), "meV/atom/ns", note))
    density = (analysis.get("density") or {}).get("density_g_cm3")
    if density:
        cards.append(Card("Density", number(density.get("mean"), 4), "g/cm³", f"± {number(density.get('error'), 2)}"))
    overlaps = {pair: e["overlap"] for pair, e in _pairs(analysis).items() if isinstance(e.get("overlap"), int | float)}
    if overlaps:
        worst = min(overlaps, key=lambda pair: overlaps[pair])
        cards.append(
            Card("RDF overlap", f"{100 * overlaps[worst]:.1f}", "%", f"with the reference, worst pair {worst}")
        )
    speed = analysis.get("steps_per_second")
    if isinstance(speed, int | float):
        timestep = next((s["timestep_ps"] for s in reversed(segments) if s.get("timestep_ps")), None)
        rate = f"{number(speed * timestep * 86.4)} ns/day" if timestep else ""
        count = analysis.get("ranks")
        ranks = f"{number(count)} MPI rank{'s' if count > 1 else ''}" if count else ""
        cards.append(Card("MD speed", number(speed), "steps/s", ", ".join(part for part in (ranks, rate) if part)))
    return cards


def _many_block(section: Section, analysis: dict[str, Any], canvas: Canvas) -> Block:
    """Runs from several structures: a table of them, and the deviation of the models in all."""
    rows: list[tuple[str, ...]] = []
    for index, run in enumerate(analysis["starts"]):
        last = (run.get("segments") or [{}])[-1]
        ended = run.get("stopped")
        hot = with_error(last.get("temperature_K") or {})
        end = f"{number(ended['time_ps'])} ps: {ended['reason']}" if ended else "–"
        rows.append((str(index), str(run.get("formula", "")), number(run.get("frames")), hot, end))
    header = ("start", "formula", "frames", "temperature of the last segment (K)", "ended early")
    table = Table("Runs from each start structure", header, rows, text=(1, 4))
    stopped = len(analysis.get("stopped_starts") or ())
    lead = f"Runs from {len(rows)} structures; {stopped or 'none'} of them ended early."
    facts = [(name, number(analysis[name])) for name in ("frames", "ranks") if analysis.get(name) is not None]
    return Block(
        f"md-{''.join(c if c.isalnum() else '-' for c in section.name)}", "Molecular dynamics", section.name, lead,
        facts, [], deviation_pictures(section, analysis, canvas), [table.compact()], [],
        {"frames": analysis.get("frames"), "stopped_starts": analysis.get("stopped_starts")},
    )  # fmt: skip


def _per_ns(drift: dict[str, Any]) -> float | None:
    slope = drift.get("slope_meV_atom_ps")
    return 1000.0 * slope if isinstance(slope, int | float) else None


def _pairs(analysis: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pairs: dict[str, dict[str, Any]] = (analysis.get("rdf") or {}).get("pairs") or {}
    return pairs


def _thermo_pictures(
    section: Section, thermo: dict[str, Array], segments: list[dict[str, Any]], atoms: int | None, canvas: Canvas
) -> list[Picture]:
    missing = {"segment", "time_ps", "temperature_K", "total_eV"} - set(thermo)
    if missing:
        raise DataError(f"{section.out / 'thermo.csv'} lacks the columns {', '.join(sorted(missing))}")
    rows = read_rows(section.out / "thermo.csv") or []
    moving = np.array([row.get("ensemble") != "minimize" for row in rows])
    table = {name: values[moving] for name, values in thermo.items()}
    if moving.sum() < 2:
        return []
    spans = _spans(table, [row.get("ensemble", "") for row, used in zip(rows, moving, strict=True) if used])
    scale, unit = (1000.0 / atoms, "meV/atom") if atoms else (1.0, "eV")
    temperature, total = table["temperature_K"], (table["total_eV"] - table["total_eV"][0]) * scale
    pictures = [
        canvas.picture(
            over_time(table["time_ps"], temperature, "temperature (K)", spans, SERIES[1]),
            f"Temperature over {number(float(table['time_ps'][-1]))} ps: mean {number(float(temperature.mean()))} K, "
            f"from {number(float(temperature.min()))} to {number(float(temperature.max()))} K.",
            "Temperature, with a running average.",
        ),
        canvas.picture(
            over_time(table["time_ps"], total, f"total energy change ({unit})", spans, SERIES[0]),
            f"Total energy relative to the first step: it ends at {number(float(total[-1]))} {unit}.",
            "Total energy; a thermostat exchanges heat, constant energy (nve) should be flat.",
        ),
    ]
    for entry in segments:
        if entry.get("energy_drift") and atoms:
            pictures.append(_drift_picture(table, entry, atoms, canvas))
    pressure = table.get("pressure_bar")
    if pressure is not None and np.isfinite(pressure).sum() > 1:
        shown, name = (pressure / 1000, "kbar") if np.nanmax(np.abs(pressure)) > 3000 else (pressure, "bar")
        mean, std = number(float(np.nanmean(shown))), number(float(np.nanstd(shown)))
        said = f"mean {mean} {name}, standard deviation {std} {name}"
        draw = over_time(table["time_ps"], shown, f"pressure ({name})", spans, SERIES[3])
        pictures.append(
            canvas.picture(draw, f"Pressure over time: {said}.", f"Pressure, with a running average; {said}.")
        )
    return pictures


def _spans(table: dict[str, Array], ensembles: list[str]) -> Spans:
    spans: Spans = []
    for index in np.unique(table["segment"]):
        used = np.flatnonzero(table["segment"] == index)
        times = table["time_ps"][used]
        spans.append((float(times[0]), float(times[-1]), ensembles[int(used[0])].upper()))
    return spans


def _drift_picture(table: dict[str, Array], entry: dict[str, Any], atoms: int, canvas: Canvas) -> Picture:
    drift = entry["energy_drift"]
    used = table["segment"] == entry.get("index")
    time, total = table["time_ps"][used], table["total_eV"][used]
    line = drift["intercept_eV"] + drift["slope_meV_atom_ps"] * atoms / 1000 * time
    level = line[0]

    def draw(figure: Figure, axes: Axes) -> None:
        axes.plot(
            *thin(time, (total - level) * 1000 / atoms), color=SERIES[0], linewidth=0.9, alpha=0.8, label="total energy"
        )
        axes.plot(
            time[[0, -1]],
            ((line - level) * 1000 / atoms)[[0, -1]],
            color=INK,
            linewidth=1.3,
            linestyle="--",
            label="linear fit",
        )
        axes.set_xlabel("time (ps)")
        axes.set_ylabel("energy (meV/atom)")

    error = drift.get("error_meV_atom_ps")
    slope = number(_per_ns(drift), 2) + (f" ± {number(1000 * error, 1)}" if isinstance(error, int | float) else "")
    said = f"drift {slope} meV/atom/ns, rms fluctuation {number(drift.get('fluctuation_meV_atom'))} meV/atom"
    return canvas.picture(
        draw, f"Energy conservation at constant energy: {said}.", f"Energy conservation in NVE: {said}."
    )


def _rdf_pictures(section: Section, analysis: dict[str, Any], canvas: Canvas) -> list[Picture]:
    table = read_columns(section.out / "rdf.csv")
    if not table or "r_A" not in table:
        return []
    pictures = []
    for pair, g in table.items():
        if pair == "r_A" or pair.endswith(REFERENCE):
            continue
        reference = table.get(pair + REFERENCE)
        entry = _pairs(analysis).get(pair) or {}
        said = [f"first peak {_peak(entry.get('first_peak'))}"] if entry.get("first_peak") else []
        if reference is not None:
            said += [f"reference {_peak(entry.get('reference_peak'))}"] if entry.get("reference_peak") else []
            said += [f"overlap {100 * entry['overlap']:.1f} %"] if "overlap" in entry else []
        text = "; ".join(said) + "." if said else ""
        beside = " of the model next to that of the reference data" if reference is not None else ""
        pictures.append(
            canvas.picture(
                _rdf(table["r_A"], g, reference, pair),
                f"Radial distribution function {pair}{beside}. {text}",
                f"Radial distribution function {pair}{': ' + text if text else '.'}",
            )
        )
    return pictures


def _peak(peak: dict[str, Any] | None) -> str:
    return f"{number(peak.get('g'))} at {number(peak.get('r_A'))} Å" if peak else "none"


def _rdf(r: Array, g: Array, reference: Array | None, pair: str) -> Draw:
    def draw(figure: Figure, axes: Axes) -> None:
        axes.axhline(1.0, color=MUTED, linewidth=0.7, linestyle=":")
        if reference is not None:
            axes.fill_between(r, reference, color=SERIES[7], alpha=0.25, linewidth=0)
            axes.plot(r, reference, color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label="reference", zorder=3)
        axes.plot(r, g, color=SERIES[0], linewidth=2.0, label="model")
        axes.set_xlim(0, float(r[-1]))
        # A bond inside a molecule towers over the shells of the liquid; those are what is looked at.
        top = max(float(curve.max()) for curve in (g, reference) if curve is not None)
        far = max(float(curve[r > 0.35 * r[-1]].max(initial=0.0)) for curve in (g, reference) if curve is not None)
        if top > 4 * far > 0:
            axes.set_ylim(0, 2.2 * far)
            axes.text(
                0.98,
                0.97,
                f"peak cut off, up to {number(top)}",
                transform=axes.transAxes,
                ha="right",
                va="top",
                fontsize=7.5,
                color=MUTED,
            )
        else:
            axes.set_ylim(0, None)
        axes.set_xlabel("distance r (Å)")
        axes.set_ylabel(f"g(r) {pair}")

    return draw


def _segment_table(segments: list[dict[str, Any]]) -> Table:
    rows: list[tuple[str, ...]] = []
    for s in segments:
        t, p = s.get("temperature_K") or {}, s.get("pressure_bar") or {}
        drift = s.get("energy_drift") or {}
        rows.append(
            (
                f"{s.get('index')} {s.get('ensemble')}",
                number(s.get("time_ps")),
                number(1000 * s["timestep_ps"]) if s.get("timestep_ps") else "–",
                with_error(t),
                number(t.get("std")),
                with_error(p),
                number(_per_ns(drift)),
                number(drift.get("fluctuation_meV_atom")),
            )
        )
    header = (
        "segment",
        "time (ps)",
        "step (fs)",
        "temperature (K)",
        "its std (K)",
        "pressure (bar)",
        "drift (meV/atom/ns)",
        "fluctuation (meV/atom)",
    )
    return Table(
        "Averages over segments; the first fifth of thermostatted ones is left out, errors are from blocks",
        header,
        rows,
    )


def _rdf_table(analysis: dict[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            pair,
            _peak(e.get("first_peak")),
            _peak(e.get("reference_peak")),
            f"{100 * e['overlap']:.1f} %" if isinstance(e.get("overlap"), int | float) else "–",
        )
        for pair, e in _pairs(analysis).items()
    ]
    return Table("First peaks of g(r)", ("pair", "model", "reference", "overlap"), rows)
