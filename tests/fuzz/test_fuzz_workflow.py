"""Spoilt and senseless workflow files end in an error that can be read, quickly, and touch nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsim.errors import DataError
from dpsim.workflow.language import patterns
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load
from dpsim.workflow.records.digest import Digester

PROGRAM = Path(__file__).with_name("fuzz_workflow.py")


def fuzz(cases: int, seed: int) -> dict[str, object]:
    command = [sys.executable, str(PROGRAM), "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, object], cases: int) -> None:
    codes = found["codes"]
    assert isinstance(codes, dict)
    assert found["cases"] == cases
    assert {"valid", "E101", "E102", "E103", "E203", "E205", "E301", "E401"} <= set(codes)
    assert found["peak_mb"] < 1000  # type: ignore[operator]


def test_two_thousand_files() -> None:
    check(fuzz(2000, 7), 2000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_files(seed: int) -> None:
    check(fuzz(10_000, seed), 10_000)


def codes(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(InvalidWorkflow) as caught:
        load(tmp_path / "w.yaml")
    return [problem.code for problem in caught.value.problems]


# --- what was found, or would be --------------------------------------------------------------------------------


def test_line_breaks_that_only_yaml_1_1_knows(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_bytes("dpsim: 1\nnotes: 'a\x85  b'\nstagse: {}\n".encode())
    with pytest.raises(InvalidWorkflow) as caught:
        load(tmp_path / "w.yaml")
    assert "stagse" in caught.value.render()


def test_thousands_of_problems_are_not_all_told(tmp_path: Path) -> None:
    text = "dpsim: 1\n" + "".join(f"kee{i}: 1\n" for i in range(20_000))
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(InvalidWorkflow) as caught:
        load(tmp_path / "w.yaml")
    assert len(caught.value.problems) == 50
    assert caught.value.render().endswith("these are the first 50 problems; there may be more")


def test_what_is_filled_in_is_bounded(tmp_path: Path) -> None:
    for first, use in (("[x, x, x, x]", '"${vars.v%d}"'), ("xxxx", '"${vars.v%d}${vars.v%d}${vars.v%d}"')):
        lines = ["dpsim: 1", "vars:", f"  v0: {first}"]
        for i in range(1, 40):
            one = use.replace("%d", str(i - 1))
            lines.append(f"  v{i}: [{one}, {one}, {one}]" if first[0] == "[" else f"  v{i}: {one}")
        lines += ["stages:", '  s: {uses: command, run: [x], notes: "${vars.v39}"}']
        assert codes(tmp_path, "\n".join(lines)) == ["E103"]


def test_tasks_of_all_matrices_are_bounded(tmp_path: Path) -> None:
    axis = ", ".join(map(str, range(100)))
    axes = f"{{a: [{axis}], b: [{axis[: axis.index(', 60')]}]}}"
    one = f"{{uses: command, run: ['${{matrix.a}}${{matrix.b}}'], matrix: {axes}}}"
    assert codes(tmp_path, f"dpsim: 1\nstages:\n  s: {one}\n  t: {one}\n") == ["E211"]


def test_values_of_all_matrix_points_are_bounded(tmp_path: Path) -> None:
    axis = ", ".join(map(str, range(5000)))
    long = ", ".join(["x"] * 1000)
    text = f"dpsim: 1\nstages:\n  s: {{uses: command, matrix: {{a: [{axis}]}}, run: ['${{matrix.a}}', {long}]}}\n"
    assert codes(tmp_path, text) == ["E103"]


def test_a_device_is_no_workflow_and_no_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidWorkflow, match="more than the 1 MB"):
        load(Path("/dev/zero"))
    assert codes(tmp_path, "dpsim: 1\ninclude: [/dev/zero]\n") == ["E106"]
    for special in (Path("/dev/zero"), tmp_path / "pipe"):
        if special.parent == tmp_path:
            os.mkfifo(special)
        with pytest.raises(DataError, match="neither a file nor a folder"):
            Digester().path(special)


def test_names_of_folders_are_not_too_long(tmp_path: Path) -> None:
    assert codes(tmp_path, f"dpsim: 1\nstages:\n  {'s' * 101}: {{uses: command, run: [x]}}\n") == ["E209"]
    assert codes(tmp_path, f"dpsim: 1\nname: {'n' * 101}\nstages:\n  s: {{uses: command, run: [x]}}\n") == ["E205"]
    axes = ", ".join(f"{a * 30}: [{'v' * 60}]" for a in "abcdefg")
    run = ", ".join(f'"${{matrix.{a * 30}}}"' for a in "abcdefg")
    (tmp_path / "w.yaml").write_text(f"dpsim: 1\nstages:\n  s: {{uses: command, run: [{run}], matrix: {{{axes}}}}}\n")
    (name,) = load(tmp_path / "w.yaml").order
    assert len(name.encode()) < 255


def test_patterns_do_not_run_in_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.txt").touch()
    (tmp_path / "a" / ".hidden").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "y.txt").touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    found = [os.path.relpath(path, tmp_path) for path in patterns.expand(f"{tmp_path}/**/*.txt")]
    assert found == ["a/b/x.txt", "a/link/y.txt", "far/y.txt"]
    assert [Path(path).name for path in patterns.expand(f"{tmp_path}/a/*")] == ["b", "link"]
    assert [Path(path).name for path in patterns.expand(f"{tmp_path}/a/.h*")] == [".hidden"]
    assert [Path(path).name for path in patterns.expand(f"{tmp_path}/[ab]/?/x.[tu]xt")] == ["x.txt"]
    assert patterns.expand(f"{tmp_path}/nothing/*") == patterns.expand("a\0*") == []
    monkeypatch.setattr(patterns, "MAX_LOOKED_AT", 5)
    with pytest.raises(DataError, match=r"leads past more than 5 files; write more of the path"):
        patterns.expand(f"{tmp_path}/**/*.txt")
    text = "dpsim: 1\ntype_map: [Cu]\nstages:\n  s: {uses: convert, from: {path: '**/*.xyz'}}\n"
    assert codes(tmp_path, text) == ["E401"]


def test_a_name_with_a_zero_byte_is_no_file(tmp_path: Path) -> None:
    text = 'dpsim: 1\ntype_map: [Cu]\nstages:\n  s: {uses: convert, from: {path: "a\\0b"}}\n'
    assert codes(tmp_path, text) == ["E401"]
