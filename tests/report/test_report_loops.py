"""What a report shows of a loop: its iterations together, their errors, and the time of parallel stages once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import samples

from dpsim.errors import DataError
from dpsim.report.blocks import Section
from dpsim.report.build import build_report
from dpsim.report.figures import SERIES
from dpsim.report.timeline import pipeline, time_shares


def _iteration(number: int, test: bool) -> dict[str, Any]:
    edges = [0.05 * k for k in range(11)]
    counts = {"accurate": 80 + 5 * number, "candidate": 20 - 5 * number, "failed": 0}
    classes = {name: [count / 10] * 10 for name, count in counts.items()}
    share = {name: count / 100 for name, count in counts.items()}
    stages: dict[str, Any] = {
        "fit@member=1": {"best": {"step": 90, "rmse_energy": 0.004, "rmse_forces": 0.2 / number}},
        "fit@member=2": {"best": {"step": 90, "rmse_energy": 0.004, "rmse_forces": 0.11 / number}},
        "select": {"frames": 100, "selected": 12, "low": 0.2, **share, "histogram": {"edges": edges, **classes}},
        "grow": {"frames": 48 + 12 * number, "train": 38 + 10 * number, "valid": 10 + 2 * number},
    }
    if test:
        stages["check"] = {"overall": {"frames": 60, "forces_rmse": 0.121 / number}}
    return {"number": number, "value": share["accurate"], "stages": stages}


def _page(folder: Path, *, test: bool = True) -> tuple[str, dict[str, Any]]:
    until = {"metric": "select.accurate", "at_least": 0.95, "for": 1}
    rows = [_iteration(number, test) for number in (1, 2, 3)]
    metrics = {"iterations": rows, "converged": True, "until": until}
    samples.write(folder / "out" / "metrics.json", json.dumps(metrics))
    manifest = {"name": "al", "stages": _records()}
    text = build_report([Section("loop", "loop", folder / "out")], folder / "report", manifest).read_text()
    return re.sub(r"\s+", " ", text), json.loads((folder / "report" / "summary.json").read_text())


def _records() -> dict[str, Any]:
    """Two iterations of two members side by side, a point of a matrix that failed, and one stage."""
    records: dict[str, Any] = {"data": {"type": "convert", "state": "cached", "attempts": [{"start": 0, "end": 10}]}}
    records["loop"] = {"type": "loop", "state": "done", "attempts": [{"start": 300, "end": 301}]}
    for number in (1, 2):
        for member, late in ((1, 0), (2, 5)):
            begin = 100 * number + late
            records[f"loop.{number:02d}.fit@member={member}"] = {
                "type": "train", "state": "cached" if number == 1 else "done", "key": "ab",
                "attempts": [{"start": begin, "end": begin + 20}],
            }  # fmt: skip
    records["run@T=300"] = {"type": "md", "state": "done", "attempts": [{"start": 400, "end": 410}]}
    records["run@T=600"] = {"type": "md", "state": "failed", "attempts": [{"start": 400, "end": 430}]}
    records["a.01.b"] = {"type": "command", "state": "waiting"}  # a name that looks like an iteration, without a loop
    return records


def test_errors_by_iteration(tmp_path: Path) -> None:
    text, summary = _page(tmp_path)
    assert "Force RMSE by iteration in meV/Å: validation 155, 77.5, 51.7; test 121, 60.5, 40.3." in text
    assert "force RMSE, test" in text
    assert "121 meV/Å" in text
    assert "Stages that were repeated until select.accurate was at least 0.950." in text
    assert summary["stages"]["loop"]["values"] == [0.85, 0.9, 0.95]
    assert "iteration 2" in text
    assert "mathdefault" not in text


def test_without_a_test_there_is_no_column_of_it(tmp_path: Path) -> None:
    text, _ = _page(tmp_path, test=False)
    assert "validation 155, 77.5, 51.7." in text
    assert "force RMSE, test" not in text


def test_a_class_has_the_same_colour_in_bar_and_histogram(tmp_path: Path) -> None:
    chosen = _iteration(2, test=False)["stages"]["select"]
    samples.write(
        tmp_path / "out" / "metrics.json", json.dumps({**chosen, "counts": {"candidate": 10, "accurate": 90}})
    )
    page = build_report([Section("select", "select", tmp_path / "out")], tmp_path / "report").read_text()
    assert re.findall(r'<i class="s(\d)"></i>(\w+)', page) == [("2", "accurate"), ("0", "candidate")]
    assert SERIES[2] in page.partition("<svg")[2]


def test_tasks_of_an_iteration_and_points_are_one_chip() -> None:
    found = [
        (s.name, s.type, s.state, s.tone, s.seconds, s.anchor)
        for s in pipeline({"stages": _records()}, [], {"loop": "x"})
    ]
    assert found == [
        ("data", "convert", "cached", "good", "10 s", None),
        ("loop 1", "2 stages", "cached", "good", "25 s", "x"),
        ("loop 2", "2 stages", "done", "good", "25 s", "x"),
        ("loop", "loop", "done", "good", "1.0 s", "x"),
        ("run", "md × 2", "failed", "bad", "30 s", None),
        ("a.01.b", "command", "waiting", "idle", "", None),
    ]


def test_time_of_stages_side_by_side_counts_once() -> None:
    parts, total = time_shares({"stages": _records()})
    assert [(part.name, part.value) for part in parts] == [
        ("data", "10 s"), ("loop", "1.0 s"), ("loop.fit", "1 min 20 s"), ("run", "40 s"),
    ]  # fmt: skip
    assert total == 10 + 25 + 25 + 1 + 30
    many = {f"s{k}": {"attempts": [{"start": k, "end": k + 1 + k / 100}]} for k in range(20)}
    parts, _ = time_shares({"stages": many})
    assert [part.name for part in parts] == [*(f"s{k}" for k in range(13, 20)), "others"]
    assert sum(part.percent for part in parts) == pytest.approx(100)


def test_digests_of_many_results_are_folded(tmp_path: Path) -> None:
    manifest = {"name": "al", "stages": {f"s{k}": {"state": "done", "key": "ab"} for k in range(41)}}
    samples.write(tmp_path / "out" / "metrics.json", json.dumps({"step": 5, "best": {"step": 5, "rmse_forces": 0.1}}))
    page = build_report([Section("fit", "train", tmp_path / "out")], tmp_path / "report", manifest).read_text()
    assert "<summary>Digests of results (41)</summary>" in page
    (tmp_path / "out" / "metrics.json").write_text("{")
    with pytest.raises(DataError):
        build_report([Section("fit", "train", tmp_path / "out")], tmp_path / "report", manifest)
