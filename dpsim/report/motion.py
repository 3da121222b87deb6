"""Figures of what atoms do in molecular dynamics: displacements, vibrations, density, deviation of an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.errors import DataError
from dpsim.report.artifacts import Array, read_columns
from dpsim.report.blocks import Card, Picture, Section, Table, number
from dpsim.report.figures import INK, SERIES, Canvas, shade, smooth, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Figure", "Axes"], None]
Spans = list[tuple[float, float, str]]
CM_PER_THZ = 33.35641
"""Wave numbers (1/cm) of 1 THz."""
_SHOWN = 0.999
"""Part of the states that the axis of a spectrum covers."""


def msd_pictures(section: Section, canvas: Canvas) -> list[Picture]:
    """Mean squared displacement of each element."""
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


def msd_table(analysis: dict[str, Any]) -> Table:
    """Diffusion coefficients with both errors."""
    species = (analysis.get("msd") or {}).get("species") or {}
    rows: list[tuple[str, ...]] = [
        (
            element,
            with_error({"mean": e.get("diffusion_A2_per_ps"), "error": e.get("error_A2_per_ps")}),
            number(e.get("block_error_A2_per_ps"), 2),
            number(e.get("last_A2")),
        )
        for element, e in species.items()
    ]
    header = ("element", "coefficient (Å²/ps = 10⁻⁴ cm²/s)", "error over pieces of time", "last displacement (Å²)")
    return Table("Diffusion; the error behind ± is that over groups of atoms", header, rows)


def with_error(average: dict[str, Any]) -> str:
    """Write a mean with its standard error."""
    mean, error = average.get("mean"), average.get("error")
    if not isinstance(mean, int | float):
        return "–"
    return f"{number(mean)} ± {number(error, 2)}" if isinstance(error, int | float) else number(mean)


def vdos_pictures(section: Section, analysis: dict[str, Any], canvas: Canvas) -> list[Picture]:
    """Vibrational density of states, of all atoms and of each element."""
    table = read_columns(section.out / "vdos.csv")
    if not table or "frequency_THz" not in table or "total_per_THz" not in table:
        return []
    frequency, total = table["frequency_THz"], table["total_per_THz"]
    parts = {n.removesuffix("_per_THz"): v for n, v in table.items() if n not in ("frequency_THz", "total_per_THz")}
    sums = np.cumsum(total)
    end = float(frequency[min(len(sums) - 1, int(np.searchsorted(sums, _SHOWN * sums[-1])) + 2)])

    def draw(figure: Figure, axes: Axes) -> None:
        axes.fill_between(frequency, total, color=SERIES[7], alpha=0.25, linewidth=0)
        axes.plot(frequency, total, color=INK, linewidth=1.1, label="all")
        for index, (element, values) in enumerate(parts.items()) if len(parts) > 1 else ():
            axes.plot(frequency, values, color=SERIES[index % len(SERIES)], linewidth=1.3, label=element)
        axes.set_xlim(0, end)
        axes.set_ylim(0, None)
        axes.set_xlabel("frequency (THz)")
        axes.set_ylabel("states / atom / THz")

    facts = analysis.get("vdos") or {}
    peaks = ", ".join(
        f"{element} {number(peak)} THz ({number(peak * CM_PER_THZ)} cm⁻¹)"
        for element, peak in (facts.get("highest_peak_THz") or {}).items()
    )
    limits = f"resolution {number(facts.get('resolution_THz'))} THz, highest {number(facts.get('highest_THz'))} THz"
    folded = " Vibrations above the highest frequency are folded back: write frames more often (dump.every)."
    said = f"{limits[0].upper()}{limits[1:]}."
    near = isinstance(facts.get("highest_THz"), int | float) and end > 0.9 * facts["highest_THz"]
    return [
        canvas.picture(
            draw,
            f"Vibrational density of states; highest peaks: {peaks}; {limits}.",
            f"Vibrational density of states; highest peaks: {peaks}. {said}{folded if near else ''}",
        )
    ]


def density_pictures(section: Section, analysis: dict[str, Any], canvas: Canvas) -> list[Picture]:
    """Density over time."""
    table = read_columns(section.out / "density.csv")
    if not table or len(table.get("time_ps", ())) < 2:
        return []
    said = f"mean {with_error((analysis.get('density') or {}).get('density_g_cm3') or {})} g/cm³"
    draw = over_time(table["time_ps"], table["density_g_cm3"], "density (g/cm³)", [], SERIES[2])
    return [canvas.picture(draw, f"Density over time: {said}.", f"Density, with a running average; {said}.")]


def over_time(time: Array, values: Array, label: str, spans: Spans, color: str) -> Draw:
    """A quantity over time with its running average."""

    def draw(figure: Figure, axes: Axes) -> None:
        shade(axes, spans)
        axes.plot(*thin(time, values), color=color, alpha=0.45, linewidth=0.8)
        axes.plot(*thin(time, smooth(values, max(1, len(values) // 80))), color=color)
        axes.margins(y=0.14)
        axes.set_xlim(float(time[0]), float(time[-1]) or 1.0)
        axes.set_xlabel("time (ps)")
        axes.set_ylabel(label)

    return draw


# ---- deviation of an ensemble -------------------------------------------------------------------


def read_deviation(path: Path) -> dict[str, Array] | None:
    """Read a table of deviations (``model_devi.out``) by the names of its columns; None if there is none.

    Raises
    ------
    DataError
        If the rows do not fit the header.
    """
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) < 2:
        return None
    names = [name for name in lines[0].lstrip("#").split() if not name.startswith("atm_")]
    try:
        rows = np.array([[float(value) for value in line.split()[: len(names)]] for line in lines[1:]])
        return {name: rows[:, column] for column, name in enumerate(names)}
    except (ValueError, IndexError):
        raise DataError(f"{path} does not fit its header: the file is damaged") from None


def deviation_pictures(section: Section, analysis: dict[str, Any], canvas: Canvas) -> list[Picture]:
    """Largest deviation of a force over the run, and how often which one occurred."""
    table = read_deviation(section.out / "model_devi.out")
    if table is None or not {"step", "max_devi_f", "avg_devi_f"} <= set(table):
        return []
    largest, mean = table["max_devi_f"], table["avg_devi_f"]
    limit = (section.options.get("stop_if") or {}).get("max_deviation_force")
    relative = (analysis.get("deviation") or {}).get("relative") is not None
    unit = "relative" if relative else "eV/Å"
    level = float(limit) if isinstance(limit, int | float) else None

    def over_steps(figure: Figure, axes: Axes) -> None:
        axes.plot(*thin(table["step"], largest), color=SERIES[4], linewidth=1.0, label="largest")
        axes.plot(*thin(table["step"], mean), color=SERIES[0], linewidth=1.0, label="mean of atoms")
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.9, linestyle="--", label="stop_if")
        axes.set_ylim(0, None)
        axes.set_xlabel("step")
        axes.set_ylabel(f"deviation of forces ({unit})")

    def histogram(figure: Figure, axes: Axes) -> None:
        axes.hist(largest, bins=min(60, max(10, len(largest) // 10)), color=SERIES[4], alpha=0.8, linewidth=0)
        for part, style in ((0.5, "-"), (0.95, "--")):
            value = float(np.quantile(largest, part))
            axes.axvline(value, color=INK, linewidth=0.9, linestyle=style, label=f"{100 * part:.0f} %: {number(value)}")
        axes.set_xlabel(f"largest deviation of a force ({unit})")
        axes.set_ylabel("structures")

    said = (
        f"median {number(float(np.median(largest)))}, 95 % below {number(float(np.quantile(largest, 0.95)))}, "
        f"largest {number(float(largest.max()))} {unit}"
    )
    return [
        canvas.picture(over_steps, f"Deviation of the models along the run: {said}.", f"Deviation: {said}."),
        canvas.picture(
            histogram, f"Histogram of the largest deviation of a force in {len(largest)} structures: {said}.",
            f"Largest deviation of a force in each of {len(largest)} structures.",
        ),
    ]  # fmt: skip


def stopped_card(analysis: dict[str, Any]) -> list[Card]:
    """Where a condition ended the run, and which."""
    stopped = analysis.get("stopped")
    if not stopped:
        return []
    return [Card("MD ended early", number(stopped.get("time_ps")), "ps", str(stopped.get("reason", "")))]
