"""Frames with something wrong are taken out, each is accounted for, and all others are as they were."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from data_tools.clean import clean_dataset
from data_tools.clean_config import NearDuplicates, Outliers, Removable
from data_tools.convert import convert
from data_tools.inspect import inspect_dataset
from dpsim.cli.models import data as commands
from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.errors import DataError

TYPE_MAP = ("Cu",)


def frame(seed: int, **labels: object) -> Frame:
    """Return four copper atoms in a box, with labels near those of others."""
    rng = np.random.default_rng(seed)
    ideal = np.array([[0, 0, 0], [0, 2.5, 2.5], [2.5, 0, 2.5], [2.5, 2.5, 0]])
    values = {"energy": -14.0 + rng.normal(0, 0.01), "forces": rng.normal(0, 0.5, (4, 3)), **labels}
    given = {name: np.asarray(value) for name, value in values.items() if value is not None}
    return Frame(ideal + rng.normal(0, 0.1, (4, 3)), np.zeros(4, int), np.eye(3) * 5.0, given, origin=f"run{seed}")


def faulty() -> dict[str, list[Frame]]:
    """Return a training and a validation part; the faults of the former are in its first places."""
    base = [frame(k) for k in range(20)]
    squeezed = base[19].positions.copy()
    squeezed[1] = squeezed[0] + 0.3
    shifted = dataclasses.replace(base[15], positions=base[15].positions[::-1] + 0.001)
    return {
        "train": [
            frame(0, forces=np.full((4, 3), np.nan)),
            dataclasses.replace(base[1], cell=np.diag([5.0, 5.0, 1e-3])),
            frame(2, forces=None),
            frame(3, energy=60.0),
            frame(4, forces=np.full((4, 3), 1e5)),
            dataclasses.replace(base[19], positions=squeezed),
            *base[6:18],
            base[15],
            shifted,
        ],
        "valid": [base[12], frame(30), frame(31)],
    }


def written(path: Path) -> Path:
    for part, frames in faulty().items():
        write_unchecked(frames, path / part)
    return path


def write_unchecked(frames: list[Frame], folder: Path) -> None:
    """Write frames whatever is wrong with them: sound ones, whose arrays are then replaced."""
    good = [
        dataclasses.replace(frame(k), labels={n: np.zeros_like(v) for n, v in f.labels.items()})
        for k, f in enumerate(frames)
    ]
    write_mixed([dataclasses.replace(g, origin=f.origin) for g, f in zip(good, frames, strict=True)], folder, TYPE_MAP)
    for system in [path.parent for path in folder.rglob("type.raw")]:
        whole = "forces" in json.loads((system / "dataset.json").read_text())["fields"]
        mine = [f for f in frames if ("forces" in f.labels) == whole]
        for name, values in (
            ("coord", [f.positions for f in mine]),
            ("box", [f.cell for f in mine]),
            ("energy", [f.labels["energy"] for f in mine]),
            ("force", [f.labels["forces"] for f in mine if whole]),
        ):
            if values:
                flat = np.stack(values)
                np.save(system / "set.000" / f"{name}.npy", flat if flat.ndim == 1 else flat.reshape(len(mine), -1))


ALL = typing.get_args(Removable)


def test_each_flaw_is_taken_out_and_counted(tmp_path: Path) -> None:
    report = clean_dataset(written(tmp_path / "data"), tmp_path / "clean", ALL)
    assert report.counts_removed() == {
        "nan": 1, "bad_cell": 1, "missing_type": 0, "missing_label": 1, "too_close": 1, "force_outlier": 1,
        "energy_outlier": 1, "duplicate": 2, "near_duplicate": 1,
    }  # fmt: skip
    assert {part: len(rows) for part, rows in report.kept.items()} == {"train": 12, "valid": 2}
    found = report.to_dict()
    assert found["removed"]["total"] == 9
    assert all(len(found["removed_frames"][flaw]) == count for flaw, count in report.counts_removed().items())
    assert found["removed_frames"]["duplicate"][1].startswith("valid: ")  # the one in train stays
    card = json.loads((tmp_path / "clean/dataset.json").read_text())
    assert (card["frames"], card["parts"]) == (14, {"train": 12, "valid": 2})
    assert card["removed"] == report.counts_removed()
    left = open_dataset(tmp_path / "clean/train")
    for one, k in zip(left, range(6, 18), strict=True):
        expected = frame(k)
        assert one.origin == f"run{k}"
        np.testing.assert_array_equal(one.positions, expected.positions)
        np.testing.assert_array_equal(one.labels["forces"], expected.labels["forces"])


@pytest.mark.parametrize("flaw", [flaw for flaw in ALL if flaw not in ("nan", "bad_cell", "missing_type")])
def test_only_what_is_named_is_taken_out(tmp_path: Path, flaw: str) -> None:
    report = clean_dataset(written(tmp_path / "data"), tmp_path / "clean", ["nan", "bad_cell", flaw])
    expected = {"missing_label": 1, "too_close": 1, "force_outlier": 1, "energy_outlier": 1, "duplicate": 2}
    counts = {"nan": 1, "bad_cell": 1} | (
        {"duplicate": 2, "near_duplicate": 1} if flaw == "near_duplicate" else {flaw: expected[flaw]}
    )
    assert report.counts_removed() == counts
    assert len(open_dataset(tmp_path / "clean")) == 23 - sum(counts.values())


def test_the_copy_of_a_frame_that_goes_for_another_reason_stays(tmp_path: Path) -> None:
    wrong = frame(0, energy=80.0)
    frames = [wrong, dataclasses.replace(wrong, labels={**wrong.labels, "energy": np.array(-14.0)})]
    write_mixed([*frames, *(frame(k) for k in range(1, 12))], tmp_path / "data", TYPE_MAP)
    report = clean_dataset(tmp_path / "data", tmp_path / "clean", ["energy_outlier", "duplicate"])
    assert report.counts_removed() == {"energy_outlier": 1, "duplicate": 0}
    assert open_dataset(tmp_path / "clean")[0].labels["energy"] == -14.0


def test_near_duplicates_are_reported_only_where_that_is_asked_for(tmp_path: Path) -> None:
    data = written(tmp_path / "data")
    assert inspect_dataset(data).count("near_duplicate") == 0
    assert inspect_dataset(data, near=NearDuplicates()).count("near_duplicate") == 1
    assert inspect_dataset(data, near=NearDuplicates(tol=1e-4)).count("near_duplicate") == 1  # moved as a whole


def test_outliers_by_quartiles(tmp_path: Path) -> None:
    data = written(tmp_path / "data")
    wide, narrow = (inspect_dataset(data, outliers=Outliers(method="iqr", factor=f)) for f in (50.0, 0.2))
    assert wide.count("force_outlier") == 0
    assert narrow.count("force_outlier") > inspect_dataset(data).count("force_outlier") == 1


def test_convert_leaves_near_duplicates_out(tmp_path: Path) -> None:
    one = frame(1)
    turned = dataclasses.replace(one, positions=one.positions[::-1])
    write_mixed([one, frame(2)], tmp_path / "a", TYPE_MAP)
    write_mixed([turned, frame(3)], tmp_path / "b", TYPE_MAP)
    sources = [str(tmp_path / name) for name in "ab"]
    report = convert(sources, tmp_path / "out", drop=["near_duplicates"])
    assert [source.dropped for source in report.sources] == [{}, {"near_duplicates": 1}]
    assert ([source.frames for source in report.sources], report.frames, report.fields["energy"]) == ([2, 1], 3, 3)


def test_extended_xyz_is_read_back_as_it_was(tmp_path: Path) -> None:
    open_one = dataclasses.replace(frame(3), cell=None)
    whole = frame(1, virial=np.diag([1.0, 2.0, 3.0]), dipole=[0.1, 0.2, 0.3], atomic_energy=np.arange(4.0))
    write_mixed([whole, frame(2), open_one], tmp_path / "a", TYPE_MAP)
    report = convert([str(tmp_path / "a")], tmp_path / "out", layout="extxyz", split={"train": 0.5, "valid": 0.5})
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.extxyz")) == ["frames.extxyz"] * 2
    files = [str(path) for path in sorted((tmp_path / "out").rglob("*.extxyz"))]
    again = convert(files, tmp_path / "again", type_map=TYPE_MAP)
    assert again.fields["forces"] == again.frames == report.frames == 3
    assert (again.fields["virial"], again.fields["energy"]) == (1, 3)
    before = {float(one.labels["energy"]): one for one in (whole, frame(2), open_one)}
    for one in open_dataset(tmp_path / "again"):
        expected = before[float(one.labels["energy"])]
        np.testing.assert_allclose(one.positions, expected.positions, atol=1e-8)
        np.testing.assert_allclose(one.labels["forces"], expected.labels["forces"], atol=1e-8)
        assert (one.cell is None) == (expected.cell is None)
        assert one.origin == expected.origin
        if "virial" in expected.labels:
            np.testing.assert_allclose(one.labels["virial"], expected.labels["virial"], atol=1e-6)
    write_mixed([frame(4, hessian=np.zeros((12, 12)))], tmp_path / "h", TYPE_MAP)
    with pytest.raises(DataError, match="extended XYZ cannot hold hessian"):
        convert([str(tmp_path / "h")], tmp_path / "no", layout="extxyz")


def test_nothing_left_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    write_mixed([frame(1), frame(2)], tmp_path / "data/train", TYPE_MAP)
    write_mixed([frame(1)], tmp_path / "data/valid", TYPE_MAP)
    with pytest.raises(DataError, match=r"no frame of part 'valid' is left \(1 as duplicate were taken out in all\)"):
        clean_dataset(tmp_path / "data", tmp_path / "clean", ["duplicate"])
    assert not (tmp_path / "clean").exists()
    with pytest.raises(DataError, match="drop: ugly is not a flaw"):
        clean_dataset(tmp_path / "data", tmp_path / "clean", ["ugly"])


def test_commands(tmp_path: Path) -> None:
    def run(*words: object) -> str:
        result = CliRunner().invoke(commands.data, [str(word) for word in words])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    data = written(tmp_path / "data")
    words = [word for flaw in ALL for word in ("--drop", flaw)]
    said = run("clean", data, "-o", tmp_path / "clean", *words, "--tol", "0.01 angstrom")
    assert "taken out as near_duplicate: 1\n" in said
    assert said.endswith("clean: train 12, valid 2\n")
    parts = [tmp_path / "clean/train", tmp_path / "clean/valid"]
    once = json.loads(run("dedupe", *parts, "-o", tmp_path / "once", "--tol", "0.05", "--json"))
    assert once["frames"] == 14
    everything = json.loads(run("dedupe", *parts, "-o", tmp_path / "few", "--tol", "3", "--energy-tol", "1", "--json"))
    assert everything["frames"] == 1
    stats = json.loads(run("stats", data, "--tol", "0.05", "--outliers", "iqr", "--factor", "50", "--json"))
    assert {problem["kind"] for problem in stats["problems"]} >= {"near_duplicate", "duplicate_train_valid"}
    for wrong in (["--drop", "nan", "--tol", "1"], ["--drop", "ugly"]):
        assert CliRunner().invoke(commands.data, ["clean", str(data), "-o", "x", *wrong]).exit_code == 2


def test_the_words_of_the_command_are_those_of_the_settings() -> None:
    assert commands.FLAWS == ALL
