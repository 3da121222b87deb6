"""Includes, overrides, profiles and ``${...}``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpsim.workflow.language.document import read_document
from dpsim.workflow.language.problems import InvalidWorkflow


def doc(tmp_path: Path, text: str, **options: object) -> dict[str, object]:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    document = read_document(path, **options)  # type: ignore[arg-type]
    document.collector.check()
    return document.data


def codes(tmp_path: Path, text: str, **options: object) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        doc(tmp_path, text, **options)
    return [problem.code for problem in caught.value.problems]


def test_whole_scalars_keep_their_type_and_parts_are_text(tmp_path: Path) -> None:
    text = "dpsim: 1\nvars: {T: 300, L: [1, 2], b: true}\n"
    text += 'a: "${vars.T}"\nb: "${vars.T} K"\nc: "${vars.L}"\nd: "x${vars.b}y"\ne: "${env.T}"\n'
    data = doc(tmp_path, text, environment={"T": "300"})
    assert data["e"] == "300"
    assert (data["a"], data["b"], data["c"], data["d"]) == (300, "300 K", [1, 2], "xtruey")


def test_a_variable_may_use_those_above_it_and_the_environment(tmp_path: Path) -> None:
    text = 'dpsim: 1\nvars: {home: "${env.WHERE}", path: "${vars.home}/data"}\na: "${vars.path}"'
    path = tmp_path / "w.yaml"
    path.write_text(text)
    document = read_document(path, environment={"WHERE": "/x", "SECRET": "s"})
    assert document.data["a"] == "/x/data"
    assert document.environment == {"WHERE": "/x"}


@pytest.mark.parametrize(
    "value",
    [
        "${vars.Q}",
        "${nope}",
        "${vars.T + 1}",
        "${env.NOT_SET}",
        "${vars.T",
        "a ${vars.L} b",
        "${__import__('os')}",
    ],
)
def test_what_cannot_be_filled_in_is_an_error(tmp_path: Path, value: str) -> None:
    assert codes(tmp_path, f'dpsim: 1\nvars: {{T: 1, L: [1]}}\na: "{value}"') == ["E210"]


def test_notes_are_ignored(tmp_path: Path) -> None:
    assert doc(tmp_path, "dpsim: 1\nx-a: {b: 1}\nc: {x-d: 1, e: 2}")["c"] == {"e": 2}


def test_includes_merge_and_contradictions_are_errors(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.yaml").write_text("resources: {small: {cpus: 1}}\nvars: {T: 1}\n")
    data = doc(tmp_path, "dpsim: 1\ninclude: [sub/more.yaml]\nvars: {P: 2}\nresources: {big: {cpus: 2}}")
    assert data["vars"] == {"P": 2, "T": 1}
    assert data["resources"] == {"small": {"cpus": 1}, "big": {"cpus": 2}}
    with pytest.raises(InvalidWorkflow, match=r"more\.yaml:2:8 gives 'T' another value"):
        doc(tmp_path, "dpsim: 1\ninclude: [sub/more.yaml]\nvars: {T: 2}")


def test_names_in_included_files_are_relative_to_those(tmp_path: Path) -> None:
    """Of other includes; paths of data stay relative to the workflow file, so that a machine's file can be shared."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one.yaml").write_text("include: b/two.yaml\nvars: {x: 1}\n")
    (tmp_path / "a" / "b" / "two.yaml").write_text("include: [../three.yaml]\nvars: {y: 2}\n")
    (tmp_path / "a" / "three.yaml").write_text("vars: {z: 3}\n")
    assert doc(tmp_path, "dpsim: 1\ninclude: a/one.yaml")["vars"] == {"x": 1, "y": 2, "z": 3}


def test_notes_of_included_files_do_not_contradict(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("x-note: one\nx-base: &b {cpus: 2}\nresources: {big: *b}\n")
    data = doc(tmp_path, "dpsim: 1\nx-note: two\ninclude: more.yaml\n")
    assert data == {"dpsim": 1, "resources": {"big": {"cpus": 2}}}


def test_wrong_includes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml")
    (tmp_path / "b.yaml").write_text("include: [a.yaml]")
    assert codes(tmp_path, "dpsim: 1\ninclude: [a.yaml]") == ["E108"]
    assert codes(tmp_path, "dpsim: 1\ninclude: [absent.yaml]") == ["E106"]
    assert codes(tmp_path, "dpsim: 1\ninclude: 3") == ["E205"]
    assert codes(tmp_path, 'dpsim: 1\ninclude: "a\\0b"') == ["E106"]
    assert codes(tmp_path, f"dpsim: 1\ninclude: {'a' * 300}/b") == ["E106"]
    (tmp_path / "round").symlink_to("round")
    assert codes(tmp_path, "dpsim: 1\ninclude: round") == ["E106"]


def test_overrides(tmp_path: Path) -> None:
    text = "dpsim: 1\nprofiles: {small: {overrides: {s.m.steps: 5}}}\ns: {m: {steps: 1, run: [{t: 1}]}}"
    assert doc(tmp_path, text, profile="small")["s"] == {"m": {"steps": 5, "run": [{"t": 1}]}}
    data = doc(tmp_path, text, profile="small", overrides=("s.m.steps=7", "s.m.run.0.t=1e-3", "s.m.new={a: [x]}"))
    assert data["s"] == {"m": {"steps": 7, "run": [{"t": 1e-3}], "new": {"a": ["x"]}}}


@pytest.mark.parametrize("override", ["s.q.steps=1", "s.m.run.4.t=1", "novalue", "s.m.steps=[", "s.m.steps.x=1"])
def test_wrong_overrides_are_errors(tmp_path: Path, override: str) -> None:
    assert codes(tmp_path, "dpsim: 1\ns: {m: {steps: 1, run: [{t: 1}]}}", overrides=(override,)) == ["E109"]


@pytest.mark.parametrize(
    ("text", "code"), [("a: 1", "E201"), ("a: 1\ndpsim: 1", "E201"), ("", "E201"), ("dpsim: 2", "E202")]
)
def test_the_version_comes_first(tmp_path: Path, text: str, code: str) -> None:
    assert codes(tmp_path, text) == [code]


def test_an_unknown_profile_is_an_error(tmp_path: Path) -> None:
    assert codes(tmp_path, "dpsim: 1\nprofiles: {laptop: {}}", profile="latop") == ["E213"]
