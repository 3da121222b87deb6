# ruff: noqa: E501
"""The report: everything shown, nothing from outside, text from files escaped, what is missing absent."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.errors import DataError
from dpsim.report import Section, build_report
from dpsim.report.blocks import duration, number
from dpsim.report.build import MAX_BYTES
from dpsim.report.figures import Canvas, smooth, thin

sys.path.insert(0, str(Path(__file__).parent))

import samples

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in values.items():
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src", "srcset", "data", "action"):
                self.links.append(value or "")
        if values.get("role") == "img":
            self.labels.append(values.get("aria-label") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return build_report(samples.everything(folder), folder / "report", samples.manifest())


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page(built.read_text())


def test_all_sections_in_order(page: Page) -> None:
    shown = [
        "Pipeline",
        "Labels",
        "Data",
        "Training",
        "Test",
        "Frozen model",
        "Molecular dynamics",
        "Provenance",
        "Please cite",
    ]
    assert [heading for heading in page.headings if heading] == shown


def test_small_and_without_anything_from_outside(built: Path, page: Page) -> None:
    assert built.stat().st_size < MAX_BYTES
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    style = re.search(r"<style>(.*?)</style>", built.read_text(), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "<script" not in built.read_text()


def test_identifiers_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_figure_is_described(page: Page) -> None:
    assert len(page.labels) == 4 + 3 + 4 + 3 + 1
    assert all(len(label) > 25 for label in page.labels)
    assert any(
        label.startswith("Parity plot of the force component") and "RMSE 77.0 meV/Å" in label for label in page.labels
    )


def test_figures_follow_the_colours_of_the_page(built: Path) -> None:
    text = built.read_text()
    assert "prefers-color-scheme: dark" in text
    assert "var(--ink)" in text
    assert not re.search(r"#01010[1]|#020202|#030303|#000000", text)
    assert "mathdefault" not in text


def test_axes_have_units(page: Page) -> None:
    text = " ".join(page.text)
    for label in ("energy RMSE (meV/atom)", "force RMSE (meV/Å)", "reference force (eV/Å)", "model virial (eV/atom)", "time (ps)",
                  "temperature (K)", "pressure (kbar)", "distance r (Å)", "mean squared displacement (Å²)"):  # fmt: skip
        assert label in text


def test_key_figures(built: Path, page: Page) -> None:
    summary = json.loads((built.parent / "summary.json").read_text())
    cards = {card["label"]: (card["value"], card["unit"]) for card in summary["cards"]}
    assert cards["Force RMSE"] == ("77.0", "meV/Å")
    assert cards["NVE energy drift"] == ("200", "meV/atom/ns")
    assert cards["RDF overlap"] == ("97.0", "%")
    assert cards["MD speed"] == ("71.3", "steps/s")
    assert cards["Freeze checks"] == ("5/5", "passed")
    assert cards["Wall time"] == ("5 min 48 s", "")
    assert summary["wall_seconds"] == 348
    assert summary["stages"]["test"]["overall"]["forces_rmse"] == pytest.approx(0.077, abs=1e-3)
    assert "2 MPI ranks, 3.08 ns/day" in page.text


def test_provenance_names_versions_and_digests(page: Page) -> None:
    text = " ".join(page.text)
    for piece in (
        "2.13.0",
        "2025.7.22.4.0",
        "mpich 5.0.2",
        "b2:" + "9f" * 20,
        "c0ffee",
        "AMD EPYC 7763",
        "seed of model",
        "arXiv:2506.01686",
    ):
        assert piece in text


def test_text_of_files_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&<b>'
    section = samples.testing(tmp_path / "test", 60)
    arrays = dict(np.load(section.out / "parity.npz"))
    arrays["systems"] = np.array([evil, "$x^2$", "c"])
    np.savez(section.out / "parity.npz", **arrays)
    samples.write(
        section.out / "metrics.json",
        {"overall": {"frames": 1}, "systems": {evil: {"frames": 1, "forces_rmse": 0.1, "forces_mae": 0.1}}},
    )
    manifest = {
        "name": evil,
        "stages": {evil: {"state": evil, "attempts": []}},
        "citations": [evil],
        "packages": {evil: evil},
    }
    other = Section(evil, "freeze", tmp_path / "freeze")
    samples.write(
        other.out / "card.json", {"digest": evil, "checks": {evil: {"value": 1.0, "tolerance": 2.0, "unit": evil}}}
    )
    text = build_report([section, other], tmp_path / "out", manifest).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "$x^2$" in text
    Page(text)


def test_nothing_at_all(tmp_path: Path) -> None:
    page = Page(build_report([], tmp_path).read_text())
    assert page.headings == []
    assert json.loads((tmp_path / "summary.json").read_text())["cards"] == []


@pytest.mark.parametrize("kind", ["label", "convert", "train", "test", "freeze", "md", "command"])
def test_stage_without_outputs_is_absent(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    page = Page(build_report([Section("a", kind, tmp_path / "out")], tmp_path / "report").read_text())
    assert [heading for heading in page.headings if heading] == ["Pipeline"]


def test_pieces_that_are_missing_leave_the_others(tmp_path: Path) -> None:
    run = samples.dynamics(tmp_path / "md")
    (run.out / "rdf.csv").unlink()
    (run.out / "analysis.json").unlink()
    fit = samples.testing(tmp_path / "test", 60)
    (fit.out / "metrics.json").unlink()
    arrays = dict(np.load(fit.out / "parity.npz"))
    np.savez(
        fit.out / "parity.npz",
        **{k: v for k, v in arrays.items() if not k.startswith(("virial", "energy")) and k != "systems"},
    )
    page = Page(build_report([run, fit], tmp_path / "report").read_text())
    assert len(page.labels) == 3 + 1 + 1  # temperature, energy, pressure; displacement; forces
    cards = json.loads((tmp_path / "report/summary.json").read_text())["cards"]
    assert [card["label"] for card in cards] == ["Force RMSE"]


def test_without_test_stage_validation_errors_are_shown(tmp_path: Path) -> None:
    build_report([samples.training(tmp_path / "train")], tmp_path / "report")
    cards = json.loads((tmp_path / "report/summary.json").read_text())["cards"]
    assert [(card["label"], card["value"], card["note"]) for card in cards[:2]] == [
        ("Force RMSE", "71.2", "validation"),
        ("Energy RMSE", "1.40", "validation"),
    ]


@pytest.mark.parametrize(
    ("name", "kind", "text", "message"),
    [
        ("analysis.json", "md", "{", "analysis.json cannot be read as JSON"),
        ("analysis.json", "md", "[1]", "expected a JSON object"),
        ("thermo.csv", "md", "segment,step\n0\n", "thermo.csv:2 has not as many fields"),
        ("thermo.csv", "md", "segment,step\n0,1\n", "lacks the columns temperature_K, time_ps, total_eV"),
        ("lcurve.csv", "train", "loss\n1\n", "no column 'step'"),
        ("parity.npz", "test", "not an archive", "parity.npz cannot be read as arrays"),
        ("metrics.json", "test", '"x"', "expected a JSON object"),
        ("card.json", "freeze", "nonsense", "card.json cannot be read as JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, kind: str, text: str, message: str) -> None:
    samples.write(tmp_path / "out" / name, text)
    with pytest.raises(DataError, match=re.escape(message)):
        build_report([Section("a", kind, tmp_path / "out")], tmp_path / "report")
    assert not (tmp_path / "report/index.html").exists()


def test_parity_arrays_must_match(tmp_path: Path) -> None:
    samples.testing(tmp_path, 60)
    np.savez(tmp_path / "parity.npz", forces_reference=np.zeros((4, 3)), forces_predicted=np.zeros((5, 3)))
    with pytest.raises(DataError, match=r"forces_reference \(4, 3\) and forces_predicted \(5, 3\)"):
        build_report([Section("a", "test", tmp_path)], tmp_path / "report")


def test_objects_in_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "parity.npz", forces_reference=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read as arrays"):
        build_report([Section("a", "test", tmp_path)], tmp_path / "report")


def test_not_a_number_is_no_obstacle(tmp_path: Path) -> None:
    samples.write(
        tmp_path / "train/lcurve.csv",
        "step,learning_rate,loss,rmse_forces_train\n1,0.1,nan,\n2,0.1,inf,0.3\n3,0.1,1,0.2\n",
    )
    np.savez(
        tmp_path / "parity.npz",
        forces_reference=np.array([[0.0, np.nan, 1.0]]),
        forces_predicted=np.array([[0.1, 0.0, np.inf]]),
    )
    page = Page(
        build_report(
            [Section("a", "train", tmp_path / "train"), Section("b", "test", tmp_path)], tmp_path / "r"
        ).read_text()
    )
    assert len(page.labels) == 2


def test_a_large_test_set_stays_small(tmp_path: Path) -> None:
    sections = [
        samples.testing(tmp_path / "t", 200_000),
        samples.dynamics(tmp_path / "m", 40_000),
        samples.training(tmp_path / "l", 40_000),
    ]
    assert build_report(sections, tmp_path / "report").stat().st_size < MAX_BYTES


def test_long_tables_say_what_they_leave_out(tmp_path: Path) -> None:
    systems = {f"s{i:03d}": {"frames": 1, "energy_rmse": 0.1, "energy_mae": 0.1} for i in range(99)}
    samples.write(tmp_path / "metrics.json", {"overall": {"frames": 99}, "systems": systems})
    text = build_report([Section("t", "test", tmp_path)], tmp_path / "report").read_text()
    assert "s038" in text
    assert "s039" not in text
    assert "and 60 more rows" in text


def test_failed_checks_are_seen(tmp_path: Path) -> None:
    samples.write(
        tmp_path / "card.json",
        {"checks": {"a": {"value": 3.0, "tolerance": 1.0}, "b": {"value": None, "tolerance": 1.0}}},
    )
    text = build_report([Section("f", "freeze", tmp_path)], tmp_path / "report").read_text()
    assert text.count('class="mark failed"') == 2
    assert json.loads((tmp_path / "report/summary.json").read_text())["cards"][0]["value"] == "0/2"


def test_states_and_times_of_stages(tmp_path: Path) -> None:
    attempts = [
        {"start": "2026-11-21T10:00:00+00:00", "end": "2026-11-21T10:01:30+00:00"},
        {"start": 0, "end": 30},
        {"start": 5, "end": None},
    ]
    manifest: dict[str, Any] = {
        "stages": {"fit": {"state": "failed", "attempts": attempts}, "run": {"state": "blocked"}}
    }
    text = build_report([], tmp_path, manifest).read_text()
    assert '<li class="bad"><span class="chip"><b>fit</b><span class="state">failed · 2 min 0 s' in text
    assert '<li class="idle"><span class="chip"><b>run</b>' in text


def test_svg_is_well_formed_and_labels_stay_text() -> None:
    picture = Canvas().picture(lambda figure, axes: axes.set_xlabel("r < 5 & $x$ (Å)"), "alt", "caption")
    root = ElementTree.fromstring(picture.svg)
    assert "r < 5 & $x$ (Å)" in "".join(root.itertext())
    assert root.get("viewBox")
    assert root.get("width") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.0, "3"), (12345, "12\u2009345"), (0.0123, "0.0123"), (-1.5, "\u22121.50"), (1234.5, "1\u2009234"), (3.1e-7, "3.10 × 10⁻⁷"),
     (2.5e8, "2.50 × 10⁸"), (None, "–"), (True, "–"), ("x", "–"), (float("nan"), "not a number")],
)  # fmt: skip
def test_numbers_for_people(value: Any, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (3725, "1 h 2 min"), (100_000, "1 d 3 h")],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_thinned_curves_keep_their_extremes() -> None:
    x = np.arange(50_000, dtype=float)
    y = np.sin(x / 3000)
    y[12_345], y[30_000] = 7.0, -5.0
    short, curve = thin(x, y)
    assert len(short) < 2000
    assert (curve.min(), curve.max()) == (-5.0, 7.0)
    assert (short[0], short[-1]) == (0, 49_999)


def test_smoothing_keeps_constants_and_cuts_windows_at_the_ends() -> None:
    assert np.allclose(smooth(np.full(9, 2.0), 3), 2.0)
    assert np.allclose(smooth(np.array([0.0, 1.0, 2.0, 3.0]), 1), [0.5, 1.0, 2.0, 2.5])
    assert np.allclose(smooth(np.array([5.0, 1.0, 3.0])), [5.0, 1.0, 3.0])
