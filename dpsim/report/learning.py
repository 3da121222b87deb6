"""The parts of a report about active learning: what was selected, and how a loop went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.report.artifacts import read_object
from dpsim.report.blocks import Block, Card, Picture, Section, Table, number, shares
from dpsim.report.figures import MUTED, SERIES, Canvas
from dpsim.report.training import plain_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = ("accurate", "candidate", "failed")
_COLORS = dict(zip(_CLASSES, (2, 0, 1), strict=True))
"""Places in `SERIES`, the same in bars and histograms."""
_SHOWN_ITERATIONS = 6
"""Histograms in one figure; of more iterations, the first, the last and some between are shown."""


def select_block(section: Section, canvas: Canvas) -> Block | None:
    """Shares of accurate, candidate and failed frames, and the histogram of the deviations, from ``metrics.json``."""
    metrics = read_object(section.out / "metrics.json")
    if not metrics:
        return None
    counts: dict[str, int] = metrics.get("counts") or {}
    facts = [("frames", number(metrics.get("frames"))), ("selected", number(metrics.get("selected")))]
    facts += [("accurate", _percent(metrics.get("accurate"))), ("accurate up to", _force(metrics.get("low")))]
    if metrics.get("high") is not None:
        facts.append(("failed from", _force(metrics["high"])))
    facts += [(f"dropped: {name.replace('_', ' ')}", number(n)) for name, n in (metrics.get("dropped") or {}).items()]
    present = {name: float(counts[name]) for name in _CLASSES if counts.get(name)}
    bars = [("Frames", shares(present, colors=_COLORS))] if counts else []
    rows: list[tuple[str, ...]] = [(name, number(count), _percent(metrics.get(name))) for name, count in counts.items()]
    tables = [Table("What became of the frames", ("class", "frames", "share"), rows)] if rows else []
    pictures = [_histogram(metrics, canvas)] if metrics.get("histogram") else []
    lead = (
        "How far the models are from each other in the force on an atom, the largest of each frame. What they agree on "
        "is accurate; of the candidates, some are selected to be labelled."
    )
    summary = {key: metrics.get(key) for key in ("frames", "selected", *_CLASSES, "low", "high")}
    return Block(section.anchor, "Selection", section.name, lead, facts, bars, pictures, tables, summary=summary)


def _percent(value: Any) -> str:
    return f"{number(100 * value)} %" if isinstance(value, int | float) else "–"


def _force(value: Any) -> str:
    return f"{number(value)} eV/Å" if value is not None else "–"


def _histogram(metrics: Mapping[str, Any], canvas: Canvas) -> Picture:
    found = metrics["histogram"]
    edges = np.asarray(found["edges"], dtype=float)

    def draw(figure: Figure, axes: Axes) -> None:
        bottom = np.zeros(len(edges) - 1)
        for name in _CLASSES:
            height = np.asarray(found.get(name, np.zeros(len(bottom))), dtype=float)
            axes.bar(
                edges[:-1],
                height,
                np.diff(edges),
                bottom=bottom,
                align="edge",
                color=SERIES[_COLORS[name]],
                label=name,
                linewidth=0,
            )
            bottom += height
        for key in ("low", "high"):
            if isinstance(limit := metrics.get(key), int | float) and limit <= edges[-1]:
                axes.axvline(limit, color=MUTED, linewidth=1.0, linestyle="--")
        axes.set_xlabel("largest deviation of a force (eV/Å)")
        axes.set_ylabel("frames")

    counts = metrics.get("counts") or {}
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return canvas.picture(draw, f"Histogram of the deviations: {said}.", "Deviation of the models; limits dashed.")


# --- loops ------------------------------------------------------------------------------------------------------


def loop_block(section: Section, canvas: Canvas) -> Block | None:
    """What each iteration of a loop reported, from ``metrics.json``."""
    metrics = read_object(section.out / "metrics.json")
    rows: list[dict[str, Any]] = metrics.get("iterations") or []
    if not rows:
        return None
    until: dict[str, Any] = metrics.get("until") or {}
    metric = str(until.get("metric", "metric"))
    values = [row.get("value") for row in rows]
    last = values[-1]
    facts = [("iterations", number(len(rows))), ("ended", "converged" if metrics.get("converged") else "at its limit")]
    facts.append((metric, number(last)))
    pictures = [_by_iteration(rows, values, until, canvas)]
    pictures += _data_picture(rows, canvas) + _error_picture(rows, canvas) + _histograms(rows, canvas)
    lead = f"Stages that were repeated until {_condition(until)}."
    summary = {"iterations": len(rows), "converged": metrics.get("converged"), "values": values}
    cards = [Card("Loop", number(len(rows)), "iterations", f"{metric} {number(last)}")]
    anchor = f"stage-{section.name}"
    tables = [_iteration_table(rows, metric)]
    return Block(
        anchor, "Loop", section.name, lead, facts, [], pictures, tables, cards, summary, three=len(pictures) == 3
    )


def _condition(until: Mapping[str, Any]) -> str:
    least, most = until.get("at_least"), until.get("at_most")
    limit = f"at least {number(least)}" if least is not None else f"at most {number(most)}"
    often = f" in {until['for']} iterations running" if (until.get("for") or 1) > 1 else ""
    return f"{until.get('metric', 'the metric')} was {limit}{often}"


def _by_iteration(
    rows: Sequence[Mapping[str, Any]], values: Sequence[Any], until: Mapping[str, Any], canvas: Canvas
) -> Picture:
    numbers = [row["number"] for row in rows]
    heights = [value if isinstance(value, int | float) else math.nan for value in values]
    limit = until.get("at_least") if until.get("at_least") is not None else until.get("at_most")
    metric = str(until.get("metric", "metric"))

    def draw(figure: Figure, axes: Axes) -> None:
        axes.plot(numbers, heights, "o-", color=SERIES[0], markersize=4)
        if limit is not None:
            axes.axhline(limit, color=MUTED, linewidth=1.0, linestyle="--")
        _integers(axes, numbers)
        axes.set_ylabel(metric)

    said = ", ".join(f"{n}: {number(v)}" for n, v in zip(numbers, values, strict=True))
    return canvas.picture(draw, f"{metric} by iteration: {said}.", f"{metric} by iteration; the limit is dashed.")


def _integers(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xlabel("iteration")
    axes.set_xticks(list(numbers)[:: max(1, len(numbers) // 10)])
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)


def _data_of(row: Mapping[str, Any]) -> dict[str, int]:
    """Return the frames of the largest data set that a stage of the iteration made, by part."""
    found = [one for one in row["stages"].values() if "frames" in one and ("train" in one or len(one) == 1)]
    largest: dict[str, int] = max(found, key=lambda one: one["frames"], default={})
    return largest


def _data_picture(rows: Sequence[Mapping[str, Any]], canvas: Canvas) -> list[Picture]:
    sizes = [_data_of(row) for row in rows]
    if not any(sizes):
        return []
    numbers = [row["number"] for row in rows]
    parts = [name for name in ("train", "valid", "test") if any(name in one for one in sizes)] or ["frames"]

    def draw(figure: Figure, axes: Axes) -> None:
        bottom = np.zeros(len(rows))
        for index, part in enumerate(parts):
            height = np.array([one.get(part, 0) for one in sizes], dtype=float)
            axes.bar(numbers, height, 0.7, bottom=bottom, color=SERIES[index], label=part, linewidth=0)
            bottom += height
        _integers(axes, numbers)
        axes.set_ylabel("frames")

    said = ", ".join(number(one.get("frames")) for one in sizes)
    return [canvas.picture(draw, f"Frames of the data by iteration: {said}.", "Size of the data after each iteration.")]


def _reporting(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return what the first stage of the iteration that reports a key reports."""
    found = (one for one in row["stages"].values() if isinstance(one, dict) and key in one)
    return next(found, {})


def _histograms(rows: Sequence[Mapping[str, Any]], canvas: Canvas) -> list[Picture]:
    found = [(row["number"], _reporting(row, "histogram").get("histogram")) for row in rows]
    known = [(iteration, one) for iteration, one in found if one]
    if not known:
        return []
    if len(known) > _SHOWN_ITERATIONS:
        chosen = np.unique(np.linspace(0, len(known) - 1, _SHOWN_ITERATIONS).round().astype(int))
        known = [known[i] for i in chosen]

    def draw(figure: Figure, axes: Axes) -> None:
        for index, (iteration, one) in enumerate(known):
            edges = np.asarray(one["edges"], dtype=float)
            counts = sum(np.asarray(one[name], dtype=float) for name in _CLASSES if name in one)
            share = np.cumsum(counts) / max(float(np.sum(counts)), 1.0)
            axes.plot(edges[1:], share, color=SERIES[index % len(SERIES)], label=f"iteration {iteration}")
        axes.set_xscale("log")
        plain_decades(axes, y=False)
        axes.set_xlabel("largest deviation of a force (eV/Å)")
        axes.set_ylabel("share of frames below")

    shown = ", ".join(str(iteration) for iteration, _ in known)
    caption = "Deviation of the models in each iteration, cumulative."
    return [canvas.picture(draw, f"Cumulative histograms of the deviations in iterations {shown}.", caption)]


def _iteration_table(rows: Sequence[Mapping[str, Any]], metric: str) -> Table:
    header = (
        "iteration", metric, "candidate", "failed", "selected", "accurate up to", "data", "force RMSE, validation",
        "force RMSE, test",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = []
    for row in rows:
        chosen = _reporting(row, "accurate")
        lines.append(
            (
                str(row["number"]), number(row.get("value")), _percent(chosen.get("candidate")),
                _percent(chosen.get("failed")), number(chosen.get("selected")), _force(chosen.get("low")),
                number(_data_of(row).get("frames")),
                *(f"{number(one)} meV/Å" if one is not None else "–" for one in _force_errors(row)),
            )
        )  # fmt: skip
    return Table("Iterations", header, lines).compact()


def _force_errors(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the errors of the forces in meV/Å on validation data and in tests, the mean over the models."""
    found = (_values(row, "best", "rmse_forces"), _values(row, "overall", "forces_rmse"))
    validation, test = (1000 * float(np.mean(values)) if values else None for values in found)
    return validation, test


def _values(row: Mapping[str, Any], part: str, key: str) -> list[float]:
    parts = [one[part] for one in row["stages"].values() if isinstance(one.get(part), dict)]
    return [one[key] for one in parts if isinstance(one.get(key), float)]


def _error_picture(rows: Sequence[Mapping[str, Any]], canvas: Canvas) -> list[Picture]:
    numbers = [row["number"] for row in rows]
    both = np.array([_force_errors(row) for row in rows], dtype=float)
    lines = {name: both[:, i] for i, name in enumerate(("validation", "test")) if np.isfinite(both[:, i]).any()}
    if not lines:
        return []

    def draw(figure: Figure, axes: Axes) -> None:
        for name, values in lines.items():
            axes.plot(numbers, values, "o-", color=SERIES[1 if name == "validation" else 0], markersize=4, label=name)
        _integers(axes, numbers)
        axes.set_ylim(0, 1.08 * float(np.nanmax(both)))
        axes.set_ylabel("force RMSE (meV/Å)")

    said = "; ".join(f"{name} {', '.join(number(float(v)) for v in values)}" for name, values in lines.items())
    caption = "Error of the forces by iteration, the mean over the models. Validation data grow with the data."
    return [canvas.picture(draw, f"Force RMSE by iteration in meV/Å: {said}.", caption)]
