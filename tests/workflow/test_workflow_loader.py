"""The loader reads YAML 1.2 scalars, keeps places, and refuses what is dangerous or ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.language.yaml_loader import load_file, load_text
from dpsim.workflow.reference.describe import to_yaml


def read(text: str) -> object:
    return load_text(text, "w.yaml").data


def codes(text: str) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        read(text)
    return [problem.code for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("No", "No"),
        ("N", "N"),
        ("Y", "Y"),
        ("On", "On"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ('"1"', "1"),
        ("'true'", "true"),
        ("!!str 5", "5"),
        ("0b11", "0b11"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read(f"a: {text}")
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


def test_places_are_kept() -> None:
    loaded = load_text("a: 1\nb:\n  - x\n  - {c: déjà, d: 2}\n", "w.yaml")
    assert (loaded.places["b", 1, "d"].line, loaded.places["b", 1, "d"].column) == (4, 18)
    assert (loaded.keys["b", 1, "c"].line, loaded.keys["b", 1, "c"].column) == (4, 6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", ["E102"]),
        ("x: {b: 1, b: 1}", ["E102"]),
        ("a: !!python/object/apply:os.system [echo]", ["E104"]),
        ("a: !include x.yaml", ["E104"]),
        ("1: 2", ["E105"]),
        ("null: 2", ["E105"]),
        ("? [a]\n: 1", ["E105"]),
        ("a: [", ["E101"]),
        ("a: 1\n\tb: 2", ["E101"]),
        ("a: \x00", ["E101"]),
        ("a: 1\n---\nb: 2", ["E101"]),
        ("a: *nope", ["E101"]),
        ("a: &a [*a]", ["E103"]),
        ("[" * 500, ["E103"]),
        (f"a: {'9' * 5000}", ["E205"]),
        ("a: !!int x", ["E205"]),
        ("<<: 3", ["E205"]),
        ("a: 1\na: 2\nb: !!set {x}\n3: 4", ["E102", "E104", "E105"]),
    ],
)
def test_traps_are_errors(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


def test_billion_laughs_is_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert codes("\n".join(lines)) == ["E103"]


def test_aliases_and_merge_keys() -> None:
    data = read("x-base: &b {p: 1, q: {r: 2}}\nc: {<<: *b, p: 5}\nd: [*b, *b]\ne: {<<: [*b, {z: 1}]}\n")
    assert isinstance(data, dict)
    assert data["c"] == {"p": 5, "q": {"r": 2}}
    assert data["e"] == {"p": 1, "q": {"r": 2}, "z": 1}


def test_unreadable_files(tmp_path: Path) -> None:
    for name, content in (("big.yaml", b"a: " + b"x" * 1_100_000), ("latin.yaml", b"a: \xe9\n")):
        (tmp_path / name).write_bytes(content)
    for name, code in (("absent.yaml", "E106"), ("big.yaml", "E103"), ("latin.yaml", "E106"), (".", "E106")):
        with pytest.raises(InvalidWorkflow) as caught:
            load_file(tmp_path / name)
        assert caught.value.problems[0].code == code
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_file(tmp_path / "bom.yaml").data == {"a": 1}


# PyYAML's emitter folds the line breaks that only YAML 1.1 knew.
letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(letters.filter(lambda key: key != "<<"), plain, min_size=1, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    assert read(to_yaml(value)) == value
