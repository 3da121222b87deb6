"""Stages of one type side by side in the report of their run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpsim.report.artifacts import read_columns
from dpsim.report.blocks import Block, Picture, Section
from dpsim.report.figures import SERIES, Canvas
from dpsim.report.metrics import rows, stage_metrics, table
from dpsim.report.training import plain_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPARED = {"test": "Tests", "train": "Trainings", "md": "Molecular dynamics"}
"""Stage types of which several in one run are laid side by side, with what they are called."""


def compare_block(sections: Sequence[Section], canvas: Canvas) -> Block | None:
    """Return a part of the report that lays stages of one type side by side; None if there is one of each at most."""
    tables, pictures, summary = [], [], {}
    for kind, title in COMPARED.items():
        alike = [(section, stage_metrics(section)) for section in sections if section.type == kind]
        alike = [(section, metrics) for section, metrics in alike if metrics]
        if len(alike) < 2:
            continue
        header = [section.name for section, _ in alike]
        tables.append(table(title, header, rows([metrics for _, metrics in alike]), change=False))
        summary[kind] = {section.name: metrics for section, metrics in alike}
        if kind == "train":
            trainings = [(section.name, section.out) for section, _ in alike]
            drawn = [
                curves(trainings, canvas, *what) for what in (("forces", "force", "Å"), ("energy", "energy", "atom"))
            ]
            pictures += [picture for picture in drawn if picture is not None]
    if not tables:
        return None
    lead = "Stages of the same type, side by side."
    return Block("comparison", "Comparison", "", lead, pictures=pictures, tables=tables, summary=summary)


def curves(trainings: Sequence[tuple[str, Path]], canvas: Canvas, quantity: str, word: str, per: str) -> Picture | None:
    """Return the validation errors of several trainings; None if fewer than two have them."""
    lines = []
    for name, out in trainings:
        columns = read_columns(out / "lcurve.csv") or {}
        steps, errors = columns.get("step"), columns.get(f"rmse_{quantity}_valid")
        if steps is not None and errors is not None and (shown := np.isfinite(errors)).any():
            lines.append((name, steps[shown], errors[shown]))
    if len(lines) < 2:
        return None

    def draw(figure: Figure, axes: Axes) -> None:
        for index, (name, steps, errors) in enumerate(lines):
            axes.plot(steps, 1000 * errors, color=SERIES[index % len(SERIES)], label=name)
        axes.set(xlabel="step", ylabel=f"{word} RMSE (meV/{per})", xscale="log", yscale="log")
        plain_decades(axes)

    last = ", ".join(f"{name} {1000 * errors[-1]:.3g}" for name, _, errors in lines)
    alt = f"Errors of the {word} on the validation part over steps; the last, in meV/{per}: {last}."
    return canvas.picture(draw, alt, f"{word.capitalize()} error on the validation part of the data during training.")
