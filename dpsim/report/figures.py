"""Figures as inline SVG whose colours follow the page, light or dark.

Lines and text are drawn in placeholder colours that become CSS variables; text stays text. Dense points are
embedded as small pictures with a transparent ground.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.report.blocks import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#2f7ed8", "#e8743b", "#19a979", "#945ecf", "#ed4a7b", "#d99a1c", "#13a4b4", "#7d8b99")
"""Colours that stand out on white and on near black, also in print and for most colour-blind readers in this order."""
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}

WIDTH, HEIGHT = 4.9, 3.1
MAX_POINTS = 1500
"""Points of a line; more cannot be seen."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.5, "axes.unicode_minus": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.transparent": True,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.6,
    "legend.frameon": False, "legend.fontsize": 8.5, "legend.handlelength": 1.6, "lines.solid_capstyle": "round",
    "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 0, "ytick.minor.size": 0,
}  # fmt: skip


@dataclass
class Canvas:
    """Makes the figures of one page; each gets identifiers of its own.

    Attributes
    ----------
    resolution
        Dots per inch of embedded pictures.
    """

    resolution: int = 150
    _count: int = 0

    def picture(
        self,
        draw: Callable[[Figure, Axes], None],
        alt: str,
        caption: str,
        *,
        width: float = WIDTH,
        height: float = HEIGHT,
    ) -> Picture:
        """Draw one figure.

        Parameters
        ----------
        draw
            Called with an empty figure and its axes.
        alt
            What the figure shows, in words and numbers.
        caption
            Printed below it.
        width, height
            Inches.
        """
        self._count += 1
        with _style(f"dpsim-{self._count}"):
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure as NewFigure

            figure = NewFigure(figsize=(width, height), layout="constrained", dpi=self.resolution)
            FigureCanvasSVG(figure)
            axes = figure.add_subplot()
            draw(figure, axes)
            if len(axes.get_legend_handles_labels()[0]) > 0:
                _legend(axes)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", dpi=self.resolution, metadata={"Date": None, "Creator": None})
        return Picture(_inline(buffer.getvalue(), f"f{self._count}-"), alt, caption)


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib

    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        yield


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(handles), 54 // (max(map(len, labels)) + 6)))
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.2,
        handletextpad=0.5,
    )  # fmt: skip


def _inline(svg: str, prefix: str) -> str:
    """Make an SVG document part of a page: no header, no fixed size, own identifiers, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return re.sub(r"\n\s*", "\n", svg)


def thin(x: Array, *curves: Array) -> tuple[Array, ...]:
    """Reduce curves to what can be seen: of each stretch of points, the lowest and the highest of the first curve."""
    if len(x) <= MAX_POINTS:
        return (x, *curves)
    chosen: list[int] = [0]
    for part in np.array_split(np.arange(len(x)), MAX_POINTS // 2):
        values = np.nan_to_num(curves[0][part])
        chosen += sorted({int(part[values.argmin()]), int(part[values.argmax()])})
    index = np.unique([*chosen, len(x) - 1])
    return (x[index], *(curve[index] for curve in curves))


def smooth(values: Array, reach: int = 0, *, widening: float = 0.0) -> Array:
    """Average each value with its neighbours; windows are cut at the ends.

    Parameters
    ----------
    values
        (n,)
    reach
        Neighbours on each side.
    widening
        Share of the index that is added to `reach`: on a logarithmic axis the window then looks equally wide.
    """
    index = np.arange(len(values))
    width = reach + (widening * index).astype(int)
    low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def shade(axes: Axes, spans: Sequence[tuple[float, float, str]]) -> None:
    """Shade every other segment of a run, and name all of them at the top."""
    for number, (begin, end, name) in enumerate(spans):
        if number % 2:
            axes.axvspan(begin, end, color=GRID, alpha=0.45, linewidth=0)
        axes.text(
            0.5 * (begin + end), 0.985, name, transform=axes.get_xaxis_transform(), ha="center", va="top",
            fontsize=8, color=MUTED,
        )  # fmt: skip


def parity(
    reference: Array,
    predicted: Array,
    groups: NDArray[np.int64] | None,
    names: Sequence[str],
    labels: tuple[str, str],
    seed: int = 0,
) -> Callable[[Figure, Axes], None]:
    """Predicted against reference values with the diagonal, and the distribution of errors in the corner.

    Parameters
    ----------
    reference, predicted
        (n,) values.
    groups
        (n,) index into `names` that colours the points; None for one colour.
    labels
        Name of the quantity and its unit.
    """

    def draw(figure: Figure, axes: Axes) -> None:
        low, high = _limits(reference, predicted)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, zorder=1)
        index = _sample(np.abs(predicted - reference), seed)
        colors = np.array(SERIES)[np.zeros(len(index), int) if groups is None else groups[index] % len(SERIES)]
        axes.scatter(
            reference[index], predicted[index], s=8, c=colors, alpha=0.5, linewidths=0, rasterized=True, zorder=2
        )
        for number in [] if groups is None else np.unique(groups):
            axes.plot([], [], "o", color=SERIES[int(number) % len(SERIES)], markersize=4, label=names[int(number)])
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_box_aspect(1)
        axes.locator_params(nbins=5)
        axes.set_xlabel(f"reference {labels[0]} ({labels[1]})")
        axes.set_ylabel(f"model {labels[0]} ({labels[1]})")
        _error_inset(axes, predicted - reference, labels[1])

    return draw


def _limits(*arrays: Array) -> tuple[float, float]:
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _sample(errors: Array, seed: int, limit: int = 12000) -> NDArray[np.int64]:
    """Choose the points to draw, in random order so that no group hides another: the worst always, others at random."""
    order = np.random.default_rng(seed).permutation(len(errors))
    if len(errors) <= limit:
        return order
    worst = np.argsort(errors)[-limit // 20 :]
    return np.concatenate([np.setdiff1d(order[: limit - len(worst)], worst, assume_unique=True), worst])


def _error_inset(axes: Axes, errors: Array, unit: str) -> None:
    inset = axes.inset_axes((0.60, 0.08, 0.37, 0.24))
    reach = float(np.quantile(np.abs(errors), 0.995)) or 1.0
    scale, shown = (1000.0, f"m{unit}") if reach < 0.5 else (1.0, unit)
    inset.hist(np.clip(errors, -reach, reach) * scale, bins=31, color=SERIES[0], alpha=0.75, linewidth=0)
    inset.set_yticks([])
    inset.grid(False)
    inset.spines["left"].set_visible(False)
    inset.tick_params(labelsize=7, length=2, pad=1.5)
    inset.locator_params(axis="x", nbins=3)
    inset.set_title(f"error ({shown})", fontsize=7.5, color=MUTED, pad=2)
