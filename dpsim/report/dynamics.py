"""The part of a report about molecular dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.errors import DataError
from dpsim.report.artifacts import Array, read_columns, read_object, read_rows
from dpsim.report.blocks import Block, Card, Picture, Section, Table, duration, number
from dpsim.report.figures import INK, MUTED, SERIES, Canvas, shade, smooth, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Figure", "Axes"], None]
Spans = list[tuple[float, float, str]]
REFERENCE = "_reference"


def md_block(section: Section, canvas: Canvas) -> Block | None:
    """Temperature, energies, drift, g(r) and displacements of one run."""
    analysis, thermo = read_object(section.out / "analysis.json"), read_columns(section.out / "thermo.csv")
    if not analysis and not thermo:
        return None
    segments = [s for s in analysis.get("segments") or [] if s.get("ensemble") != "minimize"]
    pictures: list[Picture] = []
    if thermo:
        pictures += _thermo_pictures(section, thermo, segments, analysis.get("atoms"), canvas)
    pictures += _rdf_pictures(section, analysis, canvas)
    pictures += _msd_pictures(section, analysis, canvas)
    candidates = (_segment_table(segments), _rdf_table(analysis), _msd_table(analysis))
    tables = [table.compact() for table in candidates if table.rows]
    facts = [(k, number(analysis[k])) for k in ("atoms", "ranks", "frames") if analysis.get(k) is not None]
    if analysis.get("formula"):
        facts.insert(0, ("formula", str(analysis["formula"])))
    if isinstance(speed := analysis.get("steps_per_second"), int | float):
        facts.append(("speed", f"{number(speed)} steps/s"))
    if isinstance(seconds := analysis.get("loop_seconds"), int | float):
        facts.append(("time in LAMMPS", duration(seconds)))
    if (attempts := analysis.get("attempts", 1)) > 1:
        facts.append(("continued from checkpoints", "once" if attempts == 2 else f"{attempts - 1} times"))
    lead = "A simulation driven by the frozen model in LAMMPS."
    if any(s.get("energy_drift") for s in segments):
        lead += " The constant-energy segment shows whether forces are the derivative of the energy."
    return Block(
        f"md-{''.join(c if c.isalnum() else '-' for c in section.name)}", "Molecular dynamics", section.name, lead,
        facts, [], pictures, tables, _cards(analysis, segments), {k: v for k, v in analysis.items() if k != "frames"},
    )  # fmt: skip


def _cards(analysis: dict[str, Any], segments: list[dict[str, Any]]) -> list[Card]:
    cards = []
    drift = next((s["energy_drift"] for s in reversed(segments) if s.get("energy_drift")), None)
    if drift:
        note = f"rms fluctuation {number(drift.get('fluctuation_meV_atom'))} meV/atom"
        cards.append(Card("NVE energy drift", number(drift.get("slope_meV_atom_ps")), "meV/atom/ps", note))
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
        ranks = f"{number(analysis['ranks'])} MPI ranks" if analysis.get("ranks") else ""
        cards.append(Card("MD speed", number(speed), "steps/s", ", ".join(part for part in (ranks, rate) if part)))
    return cards


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
            _over_time(table["time_ps"], temperature, "temperature (K)", spans, SERIES[1]),
            f"Temperature over {number(float(table['time_ps'][-1]))} ps: mean {number(float(temperature.mean()))} K, "
            f"from {number(float(temperature.min()))} to {number(float(temperature.max()))} K.",
            "Temperature, with a running average.",
        ),
        canvas.picture(
            _over_time(table["time_ps"], total, f"total energy change ({unit})", spans, SERIES[0]),
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
        draw = _over_time(table["time_ps"], shown, f"pressure ({name})", spans, SERIES[3])
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


def _over_time(time: Array, values: Array, label: str, spans: Spans, color: str) -> Draw:
    def draw(figure: Figure, axes: Axes) -> None:
        shade(axes, spans)
        axes.plot(*thin(time, values), color=color, alpha=0.45, linewidth=0.8)
        axes.plot(*thin(time, smooth(values, max(1, len(values) // 80))), color=color)
        axes.margins(y=0.14)
        axes.set_xlim(float(time[0]), float(time[-1]) or 1.0)
        axes.set_xlabel("time (ps)")
        axes.set_ylabel(label)

    return draw


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
    slope = number(drift["slope_meV_atom_ps"], 2) + (f" ± {number(error, 1)}" if isinstance(error, int | float) else "")
    said = f"drift {slope} meV/atom/ps, rms fluctuation {number(drift.get('fluctuation_meV_atom'))} meV/atom"
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


def _msd_pictures(section: Section, analysis: dict[str, Any], canvas: Canvas) -> list[Picture]:
    table = read_columns(section.out / "msd.csv")
    if not table or "time_ps" not in table or len(table) < 2:
        return []
    curves = {name.removesuffix("_A2"): values for name, values in table.items() if name != "time_ps"}

    def draw(figure: Figure, axes: Axes) -> None:
        for index, (element, values) in enumerate(curves.items()):
            axes.plot(*thin(table["time_ps"], values), color=SERIES[index % len(SERIES)], label=element)
        axes.set_xlim(0, float(table["time_ps"][-1]) or 1.0)
        axes.set_ylim(0, None)
        axes.set_xlabel("time difference (ps)")
        axes.set_ylabel("mean squared displacement (Å²)")

    said = ", ".join(f"{element} {number(float(values[-1]))} Å²" for element, values in curves.items())
    return [
        canvas.picture(draw, f"Mean squared displacement; at the longest time: {said}.", "Mean squared displacement.")
    ]


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
                _with_error(t),
                number(t.get("std")),
                _with_error(p),
                number(drift.get("slope_meV_atom_ps")),
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
        "drift (meV/atom/ps)",
        "fluctuation (meV/atom)",
    )
    return Table(
        "Averages over segments; the first fifth of thermostatted ones is left out, errors are from blocks",
        header,
        rows,
    )


def _with_error(average: dict[str, Any]) -> str:
    mean, error = average.get("mean"), average.get("error")
    if not isinstance(mean, int | float):
        return "–"
    return f"{number(mean)} ± {number(error, 2)}" if isinstance(error, int | float) else number(mean)


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


def _msd_table(analysis: dict[str, Any]) -> Table:
    species = (analysis.get("msd") or {}).get("species") or {}
    rows: list[tuple[str, ...]] = [
        (
            element,
            _with_error({"mean": e.get("diffusion_A2_per_ps"), "error": e.get("error_A2_per_ps")}),
            number(e.get("last_A2")),
        )
        for element, e in species.items()
    ]
    return Table("Diffusion", ("element", "coefficient (Å²/ps = 10⁻⁴ cm²/s)", "last displacement (Å²)"), rows)
