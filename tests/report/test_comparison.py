"""Runs side by side: numbers of stages of one name, settings and versions that differ; alike stages in one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpsim.cli import main as cli
from dpsim.report.blocks import Section
from dpsim.report.build import build_report
from dpsim.report.compared_runs import ComparedRun, compare_runs
from dpsim.report.metrics import percent, stage_metrics, unit_of

WORKFLOW = """\
dpsim: 1
name: demo
stages:
  a:
    uses: command
    run: [sh, -c, "echo '{\\"overall\\": {\\"forces_rmse\\": NUMBER}}' > {out}/m.json"]
    outputs: [m.json]
  b: {uses: command, run: ['true']}
"""


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_numbers_of_a_stage(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.json", {"overall": {"energy_rmse": 0.01}, "systems": {"x": {"energy_rmse": 9}}, "ok": True}
    )
    write(tmp_path / "more.json", {"segments": [{"T": {"mean": 300.0, "std": 2.0}}], "list": [1, 2], "name": "x"})
    assert stage_metrics(Section("t", "test", tmp_path)) == {"energy_rmse": 0.01, "segments.0.T": 300.0}
    assert stage_metrics(Section("t", "train", tmp_path)) == {}
    listed = [{"structure": "copper", "property": "a", "value": 3.6, "unit": "angstrom"}]
    write(tmp_path / "p" / "properties.json", {"values": listed})
    assert stage_metrics(Section("p", "properties", tmp_path / "p")) == {"copper.a (angstrom)": 3.6}
    assert (unit_of("best.rmse_forces"), unit_of("virial_mae"), unit_of("seconds_per_step")) == ("eV/Å", "eV/atom", "s")
    assert [percent(value) for value in (None, 0.0, 0.031, -20.0)] == ["–", "0 %", "+3.1 %", "−2000 %"]


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = []
    for label, error, steps in (("one", 0.2, 10), ("two", 0.1, 20)):
        write(tmp_path / label / "metrics.json", {"overall": {"forces_rmse": error}})
        settings = {
            "stages": {"t": {"steps": steps, "runs": [{"T": 1}]}, **({"u": {"x": 1}} if label == "two" else {})}
        }
        section = Section("t", "test", tmp_path / label)
        runs.append(ComparedRun(label, {"t": section}, settings, {"torch": "2.13"}, {"t": float(steps)}))
    found = compare_runs(runs)
    assert [(row.name, row.unit, row.values, row.change()) for row in found.stages["t"]] == [
        ("forces_rmse", "eV/Å", (0.2, 0.1), -0.5),
        ("wall time", "s", (10.0, 20.0), 1.0),
    ]
    assert found.settings == [("t.steps", ("10", "20")), ("u", ("–", "declared"))]
    assert found.versions == []
    lines = found.text().splitlines()
    assert lines[0].split() == ["t", "one", "two", "change"]
    assert lines[1].split() == ["forces_rmse", "eV/Å", "0.2", "0.1", "−50.0", "%"]
    assert lines[4].split() == ["settings", "that", "differ", "one", "two"]


def test_stages_of_one_type_in_one_report(tmp_path: Path) -> None:
    sections = []
    for name, error in (("first", 0.2), ("second", 0.1)):
        write(
            tmp_path / name / "metrics.json", {"parameters": 10, "best": {"rmse_forces": error}, "steps": 2, "step": 2}
        )
        (tmp_path / name / "lcurve.csv").write_text(f"step,rmse_forces_valid\n1,{2 * error}\n2,{error}\n")
        sections.append(Section(name, "train", tmp_path / name))
    page = build_report(sections, tmp_path / "report").read_text()
    assert page.index("Comparison") < page.index("Training")
    assert "Force error on the validation part of the data during training." in page
    found = json.loads((tmp_path / "report" / "summary.json").read_text())["stages"]["comparison"]
    assert found["train"]["second"]["best.rmse_forces"] == 0.1
    alone = build_report(sections[:1], tmp_path / "alone").read_text()
    assert "Comparison" not in alone


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, number in (("x", "0.5"), ("y", "0.25")):
        Path("w.yaml").write_text(WORKFLOW.replace("NUMBER", number))
        assert cli.run(["run", "w.yaml", "--quiet", "--run-dir", f"runs/{name}"]) == 0
    capfd.readouterr()
    assert cli.run(["compare", "runs/x", "runs/y"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.splitlines()[1].split() == ["forces_rmse", "eV/Å", "0.5", "0.25", "−50.0", "%"]
    assert "a.run" in out
    assert cli.run(["compare", "runs/x", "runs/y", "--stage", "a", "--html", "c.html", "--json"]) == 0
    out, err = capfd.readouterr()
    assert (json.loads(out)["runs"], err) == (["x", "y"], "wrote c.html\n")
    page = Path("c.html").read_text()
    assert len(page) < 100_000
    assert "http" not in page.replace("http://www.w3.org", "")
    assert cli.run(["compare", "runs/x"]) == 2
    assert cli.run(["compare", "runs/x", "runs/nope"]) == 3
    assert cli.run(["compare", "runs/x", "runs/y", "--stage", "b"]) == 3
    assert "has numbers to compare" in capfd.readouterr().err


def test_an_inspection_is_part_of_the_report(tmp_path: Path) -> None:
    problems = [
        {"kind": "duplicate_train_valid", "message": "valid: a#1 is the same as <b>", "frames": ["valid: a#1"]},
        {"kind": "too_close", "message": "atoms", "frames": ["x", "y"]},
    ]
    parts = {"train": {"frames": 8}, "valid": {"frames": 2}}
    taken = {"removed": {"total": 2, "near_duplicate": 1, "nan": 1}, "kept": {"train": 6, "valid": 2}}
    problems.append({"kind": "near_duplicate_train_test", "message": "test: c#1", "frames": ["test: c#1"]})
    write(tmp_path / "inspect.json", {"problems": problems, "parts": parts, "largest_force": 3.5, **taken})
    page = build_report([Section("check", "inspect", tmp_path)], tmp_path / "report").read_text()
    for words in ("Taken out", "left in train", "nearly the same structure in train and test"):
        assert words in page
    for words in ("the same structure in train and valid", "atoms too close", "3.50 eV/Å", "is the same as &lt;b&gt;"):
        assert words in page
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["stages"]["check"]["too_close"] == 2
