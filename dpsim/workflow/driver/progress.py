"""What a user sees of a run: a live tree on a terminal, plain lines elsewhere, both on standard error."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from dpsim.workflow.planning.outline import Outline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PLAIN_INTERVAL_S: Final = 10.0
_SHOWN_VALUES: Final = 7
_BAR: Final = 24
_SHORT_BAR: Final = 12
_WIDE: Final = 100
"""Columns of a terminal from which on the bars are long."""
_MARKS: Final = {
    "waiting": ("·", "dim"),
    "queued": ("…", "cyan"),
    "running": ("▶", "bold cyan"),
    "done": ("✔", "green"),
    "cached": ("✔", "dim green"),
    "failed": ("✘", "bold red"),
    "blocked": ("–", "yellow"),
    "interrupted": ("‖", "yellow"),
    "left out": (" ", "dim"),
}
_OVER: Final = ("done", "cached", "left out")
"""States that nothing waits for."""


class View(Protocol):
    """What is told of the progress of a run: by the runner, or by who reads what the runner wrote.

    `at` is when something happened, in s since the epoch; None is now.
    """

    def start(self, outline: Outline, at: float | None = None) -> None:
        """Begin to show a run."""

    def grown(self, outline: Outline) -> None:
        """Show the tasks that a loop has added."""

    def state(self, name: str, state: str, reason: str, at: float | None = None) -> None:
        """Show that a task changed its state."""

    def progress(self, name: str, event: Mapping[str, Any], at: float | None = None) -> None:
        """Show how far a task is."""

    def message(self, text: str) -> None:
        """Show a line of text."""

    def finish(self, at: float | None = None) -> None:
        """End the display."""


def make_view(*, quiet: bool = False, stream: TextIO | None = None) -> View:
    """Return the view that fits where a stream goes, by default standard error."""
    stream = stream or sys.stderr
    if quiet:
        return SilentView()
    if not stream.isatty():
        return PlainView(stream)
    from rich.console import Console

    return LiveView(Console(file=stream))


def duration(seconds: float) -> str:
    """Return a time as people write it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def number(value: Any) -> str:
    """Return a reported number in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Estimate:
    """Time left, from the pace since the first report of a task."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float | None, at: float | None = None) -> float | None:
        """Return seconds left, None as long as nothing can be told."""
        now = time.time() if at is None else at
        if self._first is None or done < self._first[1]:
            self._first = (now, done)
        started, at = self._first
        if total is None or done <= at or now - started < 0.5:
            return None
        return max(0.0, (total - done) * (now - started) / (done - at))


class SilentView:
    """Shows nothing."""

    def start(self, outline: Outline, at: float | None = None) -> None:
        """Begin."""

    def grown(self, outline: Outline) -> None:
        """Ignore new tasks."""

    def state(self, name: str, state: str, reason: str, at: float | None = None) -> None:
        """Ignore a state."""

    def progress(self, name: str, event: Mapping[str, Any], at: float | None = None) -> None:
        """Ignore progress."""

    def message(self, text: str) -> None:
        """Ignore a line."""

    def finish(self, at: float | None = None) -> None:
        """End."""


class ProgressLine:
    """Progress of a single command: one line that is overwritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._interval = 0.2 if self._live else _PLAIN_INTERVAL_S
        self._estimate = _Estimate()
        self._shown = 0.0

    def __call__(self, done: float, total: float | None = None, message: str = "", **values: Any) -> None:
        """Show how far the command is."""
        left = self._estimate.left(done, total)
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        text = describe({"done": done, "total": total, "message": message, "values": values}, left)
        if self._live:
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressLine:
        """Begin."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Clear the line."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class PlainView:
    """One line for each thing that happens; progress every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._began: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        self._estimates: dict[str, _Estimate] = {}
        self._width = 8

    def start(self, outline: Outline, at: float | None = None) -> None:
        """Begin."""
        self.grown(outline)

    def grown(self, outline: Outline) -> None:
        """Make room for the names."""
        self._width = max((len(name) for name in outline.tasks), default=8)

    def state(self, name: str, state: str, reason: str, at: float | None = None) -> None:
        """Print a state."""
        if state == "waiting":
            return
        text, now = state, time.time() if at is None else at
        if state == "running":
            self._began[name] = self._shown[name] = now
        elif name in self._began:
            text += f" after {duration(now - self._began[name])}"
        self._line(name, f"{text}{f' ({reason})' if reason and reason != state else ''}", now)

    def progress(self, name: str, event: Mapping[str, Any], at: float | None = None) -> None:
        """Print progress from time to time."""
        now = time.time() if at is None else at
        left = self._estimates.setdefault(name, _Estimate()).left(event.get("done", 0), event.get("total"), now)
        if now - self._shown.get(name, 0.0) >= _PLAIN_INTERVAL_S:
            self._shown[name] = now
            self._line(name, describe(event, left), now)

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def finish(self, at: float | None = None) -> None:
        """End."""

    def _line(self, name: str, text: str, at: float) -> None:
        self.message(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {name:<{self._width}}  {text}")


def describe(event: Mapping[str, Any], left: float | None = None) -> str:
    """Return progress as one line of text: message, count, speed, time left, other numbers.

    A stage that knows its speed or the time left better than the pace of its reports says so in the values
    ``steps_per_s`` (or ``steps_per_second``) and ``seconds_left``.
    """
    done, total = event.get("done", 0), event.get("total")
    values = dict(event.get("values") or {})
    message = str(event.get("message") or "")
    count = f"{number(done)}/{number(total)}" if total else number(done) if done else ""
    parts = [message, count if count and count not in message else ""]
    if total:
        parts.append(f"{100 * done / total:.0f} %")
    speed = values.pop("steps_per_s", None) or values.pop("steps_per_second", None)
    seconds = values.pop("seconds_left", None)
    left = seconds if seconds is not None else left
    if left is not None and total and done < total:
        parts.append(f"{duration(left)} left")
    if speed is not None:
        parts.append(f"{number(speed)} steps/s")
    shown = [f"{key} {number(value)}" for key, value in values.items() if value is not None]
    return "  ".join(part for part in [*parts, *shown[:_SHOWN_VALUES]] if part)


class LiveView:
    """A tree of the stages with bars, redrawn in place."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._rows: dict[str, dict[str, Any]] = {}
        self._title = ""
        self._started = time.time()
        self._ended: float | None = None
        self._live: Any = None

    def start(self, outline: Outline, at: float | None = None) -> None:
        """Begin to draw."""
        from rich.live import Live

        self._title, self._rows = outline.name, {}
        self._started, self._ended = time.time() if at is None else at, None
        self.grown(outline)
        if self._live is None:
            self._live = Live(self, console=self._console, refresh_per_second=5, transient=False)
            self._live.start()

    def grown(self, outline: Outline) -> None:
        """Draw a row for each task, in the order of the plan."""
        rows = {}
        for name, line in outline.tasks.items():
            new = {"state": "waiting", "uses": line.uses, "estimate": _Estimate()}
            rows[name] = self._rows.get(name, new) | {"needs": line.needs}
        self._rows = rows

    def state(self, name: str, state: str, reason: str, at: float | None = None) -> None:
        """Redraw with a state."""
        row, now = self._rows[name], time.time() if at is None else at
        if state == "running" and row["state"] != "running":
            row["began"] = now
            row.pop("took", None)
        elif "began" in row and "took" not in row:
            row["took"] = now - row["began"]
        row.update(state=state, reason=reason)

    def progress(self, name: str, event: Mapping[str, Any], at: float | None = None) -> None:
        """Redraw with progress."""
        row = self._rows[name]
        row["event"] = event
        row["left"] = row["estimate"].left(event.get("done", 0), event.get("total"), at)

    def message(self, text: str) -> None:
        """Print a line above the tree."""
        self._console.print(text, style="yellow", highlight=False, markup=False)

    def finish(self, at: float | None = None) -> None:
        """Draw the last time."""
        self._ended = at
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich__(self) -> RenderableType:
        """Return the tree; what does not fit on the screen is counted."""
        from rich.text import Text
        from rich.tree import Tree

        seconds = (time.time() if self._ended is None else self._ended) - self._started
        tree = Tree(Text(f"{self._title}  {duration(max(0.0, seconds))}", style="bold"), guide_style="dim")
        shown = _most_telling(self._rows, max(5, self._console.size.height - 4))
        for name in shown:
            tree.add(self._row(name, self._rows[name], shown))
        if left := self._rows.keys() - shown.keys():
            states = [self._rows[name]["state"] for name in left]
            counts = (f"{states.count(state)} {state}" for state in _MARKS if state in states)
            tree.add(Text(f"and {', '.join(counts)}", style="dim"))
        return tree

    def _row(self, name: str, row: dict[str, Any], shown: Mapping[str, Any]) -> RenderableType:
        """Return one line: mark, name and type in full, then as much of the rest as there is room for."""
        from rich.table import Table
        from rich.text import Text

        widest = max(8, self._console.size.width // 3)
        width = min(widest, max((len(one) for one in shown), default=4))
        uses = max((len(one["uses"]) for one in self._rows.values()), default=8)
        mark, style = _MARKS[row["state"]]
        cut = name if len(name) <= width else f"{name[: width - 1]}…"
        head = Text.assemble(
            (mark, style), f" {cut:<{width}} "[: width + 2], (f" {row['uses']:<{uses}}", "dim"),
            style="bold" if row["state"] == "running" else "",
        )  # fmt: skip
        status = _BAR if self._console.size.width >= _WIDE else _SHORT_BAR
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, width=width + uses + 4)
        grid.add_column(no_wrap=True, width=status, overflow="ellipsis")
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_row(head, *self._right(row, style, status))
        return grid

    def _right(self, row: dict[str, Any], style: str, width: int) -> tuple[RenderableType, RenderableType]:
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        state, reason = row["state"], row.get("reason", "")
        if state != "running":
            took = f" {duration(row['took'])}" if "took" in row else ""
            shown = "" if state == "waiting" else f"{state}{took}"
            left = [need for need in row["needs"] if self._rows.get(need, {}).get("state") not in _OVER]
            needs = f"after {', '.join(left)}" if state == "waiting" and left else ""
            extra = f"{needs}{reason if state not in ('waiting', 'done') and reason != state else ''}"
            return Text(shown, style=style), Text(extra, style="dim")
        event = row.get("event", {})
        total = event.get("total")
        done = min(event.get("done", 0), total) if total else 0
        bar = ProgressBar(
            total or 100, done, width, pulse=not total, complete_style="cyan", finished_style="cyan", pulse_style="cyan"
        )
        text = describe(event, row.get("left")) or f"{duration(max(0.0, time.time() - row['began']))}  {reason}"
        return bar, Text(text)


def _most_telling(rows: Mapping[str, Any], most: int) -> dict[str, None]:
    """Return the tasks that are shown, in their order: all, or those that run and failed before others."""
    if len(rows) <= most:
        return dict.fromkeys(rows)
    rank = {state: place for place, state in enumerate(("running", "failed", "interrupted", "blocked", "waiting"))}
    chosen = sorted(rows, key=lambda name: rank.get(rows[name]["state"], len(rank)))[: most - 1]
    return {name: None for name in rows if name in set(chosen)}
