"""The commands of ``dpsim data``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dpsim.cli.models.data import data
from dpsim.data import open_dataset
from dpsim.errors import ConfigError, DataError


def run(*words: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(data, [str(word) for word in words])
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    return result


def test_every_command_has_help_without_heavy_imports() -> None:
    assert set(data.commands) == {"convert", "show", "stats", "split", "dedupe", "clean", "neighbors"}
    for name, command in data.commands.items():
        assert command.help
        assert "--json" in run(name, "--help").stdout
    heavy = {"numpy", "ase", "dpdata", "torch", "pydantic", "rich"}
    code = f"import sys, dpsim.cli.models.data; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_convert_prints_the_label_table(shared: Path, tmp_path: Path) -> None:
    result = run(
        "convert",
        shared / "data/mlearn/Mo/*.extxyz",
        "-o",
        tmp_path / "mo",
        "--split",
        "train=80%,valid=0.2",
        "--seed",
        1,
    )
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["source", "format", "files", "frames", "energy", "forces", "virial"]
    assert lines[1].split()[1:] == ["extxyz", "2", "217", "217", "(energy)", "217", "(forces)", "206", "(virial)"]
    assert lines[-1] == f"wrote {tmp_path / 'mo'}: 217 frames (train 174, valid 43), type_map Mo"
    assert len(open_dataset(tmp_path / "mo/train")) == 174


def test_convert_takes_keys_units_and_prints_json(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 E=1\nH 0 0 0\n')
    words = [
        "convert",
        tmp_path / "a.xyz",
        "-o",
        tmp_path / "out",
        "--key",
        "energy=E",
        "--unit",
        "energy=hartree",
        "--json",
    ]
    report = json.loads(run(*words, "--type-map", "C H").stdout)
    assert (report["frames"], report["type_map"], report["sources"][0]["keys"]) == (1, ["C", "H"], {"energy": {"E": 1}})
    assert float(open_dataset(tmp_path / "out")[0].labels["energy"]) == pytest.approx(27.2113860)


def test_show_lists_systems_and_frames(shared: Path) -> None:
    result = run("show", shared / "data/water", "--frames")
    assert "type_map: O H" in result.stdout
    assert "water/data_3#79" in result.stdout
    shown = json.loads(run("show", shared / "data/water", "--json", "--type-map", "H,O").stdout)
    assert (shown["frames"], shown["compositions"], shown["type_map"]) == (400, {"H128O64": 400}, ["H", "O"])


def test_split_and_dedupe(shared: Path, tmp_path: Path) -> None:
    run(
        "split", shared / "data/water", "-o", tmp_path / "parts", "--by", "trajectory", "--split", "train=0.6,valid=0.4"
    )
    origins = [
        {Path(frame.origin).name for frame in open_dataset(tmp_path / "parts" / part)} for part in ("train", "valid")
    ]
    assert origins[0] | origins[1] == {"data_0", "data_1", "data_2", "data_3"}
    assert not origins[0] & origins[1]
    twice = (shared / "data/water/data_0", tmp_path / "parts")
    report = json.loads(run("dedupe", *twice, "-o", tmp_path / "once", "--json").stdout)
    assert (report["frames"], report["sources"][1]["dropped"]) == (400, {"duplicates": 80})


def test_stats_and_neighbors(shared: Path, tmp_path: Path) -> None:
    result = run("stats", shared / "data/water/data_0", "--force-max", 1.0)
    assert "force_outlier (80 frames): data_0/set.000#" in result.stdout
    assert "energy  eV/atom" in result.stdout
    assert "no problems found" in run("stats", shared / "data/water/data_0").stdout
    found = json.loads(run("stats", shared / "data/water/data_0", "--json").stdout)
    assert [row["field"] for row in found["fields"]] == ["energy", "forces"]
    result = run("neighbors", shared / "data/water/data_0", "--cutoff", "0.4 nm")
    assert result.stdout.startswith("within 4 Å: ")
    near = json.loads(run("neighbors", shared / "data/water/data_0", "--cutoff", "4", "--json").stdout)
    assert near["min_distance"] == pytest.approx(0.892, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (["convert", "nowhere", "-o", "out"], DataError, "nowhere matches no file or folder"),
        (["convert", "x", "-o", "out", "--key", "dipole=d"], DataError, "x matches no file"),
        (["convert", "x", "-o", "out", "--index", "a"], ConfigError, "index: 'a' is not an index"),
        (["show", "nowhere"], DataError, "nowhere does not exist"),
        (["split", "nowhere", "-o", "out"], DataError, "nowhere matches no file"),
    ],
)
def test_mistakes_are_sentences(words: list[str], error: type[Exception], sentence: str) -> None:
    result = run(*words, fails=True)
    assert isinstance(result.exception, error)
    assert sentence in str(result.exception)


@pytest.mark.parametrize("words", [["--key", "energy"], ["--split", "train"], ["--split", "train=much"]])
def test_options_of_the_wrong_form_are_usage_errors(words: list[Any]) -> None:
    result = run("convert", "x", "-o", "out", *words, fails=True)
    assert result.exit_code == 2
