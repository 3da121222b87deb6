"""The tree on a terminal: nothing of a line that says much pushes out what stands before it, and it fits the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dpsim.workflow.driver.progress import LiveView
from dpsim.workflow.planning.outline import Line, Outline

LONG = "no C++ compiler: none of c++, g++, clang++ is on the PATH; install one, for example apt-get install g++"


def drawn(names: list[str], states: dict[str, tuple[str, str]], width: int, height: int = 30) -> list[str]:
    """Return the lines of the tree on a screen of so many columns and lines."""
    outline = Outline("demo", {name: Line("train", tuple(names[:-1])) for name in names})
    stream = io.StringIO()
    view = LiveView(Console(file=stream, width=width, height=height, force_terminal=True, color_system=None))
    view.start(outline)
    for name, (state, reason) in states.items():
        view.state(name, state, reason)
        if state == "running":
            values = {"loss": 0.1, "rmse_forces_valid": 0.4, "steps_per_s": 30.0}
            view.progress(name, {"done": 5, "total": 10, "message": "training", "values": values})
    stream.truncate(0)
    stream.seek(0)
    view.finish()
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    view._console = console
    console.print(view)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_long_reason_leaves_the_rest_of_its_line(width: int) -> None:
    names = ["data", "model", "frozen", "a-stage-with-a-rather-long-name@T=300,P=1_bar", "report"]
    states = {"data": ("done", ""), "model": ("running", "new"), "frozen": ("failed", LONG)}
    lines = drawn(names, states, width)
    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)
    for line, words in zip(lines[1:4], (("✔", "data", "done"), ("▶", "model"), ("✘", "frozen", "failed")), strict=True):
        for word in (*words, "train"):
            assert word in line
    assert "a-stage-with" in lines[4]
    assert "…" in lines[3]


def test_what_does_not_fit_on_the_screen_is_counted() -> None:
    names = [f"s{i}" for i in range(500)]
    states = dict.fromkeys(names[:300], ("done", ""))
    states |= {"s300": ("running", "new"), "s301": ("failed", "x")}
    lines = drawn(names, states, 100, 20)
    assert len(lines) <= 20
    assert any("▶ s300" in line for line in lines)
    assert any("✘ s301" in line for line in lines)
    assert "and 300 done, " in lines[-1] or "300 done" in lines[-1]


def test_a_stage_waits_only_for_what_is_not_done() -> None:
    lines = drawn(["a", "b", "c"], {"a": ("done", "")}, 100)
    assert lines[3].rstrip().endswith("after b")
    assert "after" not in drawn(["a", "b", "c"], {"a": ("done", ""), "b": ("cached", "")}, 100)[3]
