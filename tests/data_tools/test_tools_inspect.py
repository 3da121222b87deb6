"""Inspection finds what was planted, and nothing in data that are right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_tools.inspect import inspect_dataset
from data_tools.measure import field_statistics, neighbor_statistics, statistics_text
from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.errors import DataError

TYPE_MAP = ("O", "H", "Cu")


def frames(count: int = 20) -> list[Frame]:
    """Return frames of stretched copper pairs and water with energies that follow from their composition."""
    made = []
    for k in range(count):
        rng = np.random.default_rng(k)
        water = k % 2 == 0
        types = np.array([0, 1, 1] if water else [2, 2, 2])
        ideal = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) if water else np.diag([2.5, 2.5, 2.5])
        labels = {
            "energy": np.array((-14.0 if water else -11.0) + rng.normal(0, 0.02)),
            "forces": rng.normal(0, 0.5, (3, 3)),
        }
        made.append(Frame(ideal + rng.normal(0, 0.03, (3, 3)), types, np.eye(3) * 9, labels, origin=f"run{k}"))
    return made


def changed(frame: Frame, **labels: np.ndarray) -> Frame:
    return dataclasses.replace(frame, labels={**frame.labels, **labels})


def written(path: Path, members: list[Frame]) -> Path:
    write_mixed(members, path, TYPE_MAP)
    return path


def kinds(report: object) -> dict[str, int]:
    return {problem.kind: len(problem.frames) for problem in report.problems}  # type: ignore[attr-defined]


def test_sound_data_have_no_problems(tmp_path: Path) -> None:
    report = inspect_dataset(written(tmp_path / "d", frames()), labels=["energy", "forces"])
    assert report.problems == []
    assert report.largest_force == pytest.approx(
        max(np.linalg.norm(f.labels["forces"], axis=1).max() for f in frames())
    )
    assert "OH2" in report.table
    assert report.parts["."].compositions == {"OH2": 10, "Cu3": 10}


def test_published_water_has_no_problems_but_the_missing_virial(shared: Path) -> None:
    report = inspect_dataset(shared / "data/water/data_0", labels=["energy", "forces", "virial"])
    assert kinds(report) == {"missing_label": 80}
    assert report.problems[0].message.endswith("has no virial")


def test_every_planted_fault_is_found(tmp_path: Path) -> None:
    made = frames()
    made[2] = dataclasses.replace(made[2], labels={"energy": made[2].labels["energy"]})
    made[4] = changed(made[4], forces=made[4].labels["forces"] * 1e4)
    made[6] = changed(made[6], energy=made[6].labels["energy"] - 30)
    squeezed = made[7].positions.copy()
    squeezed[1] = squeezed[0] + [0, 0, 0.9]
    made[7] = dataclasses.replace(made[7], positions=squeezed)
    made.append(dataclasses.replace(made[9], origin="copy"))
    folder = written(tmp_path / "d", made)
    report = inspect_dataset(folder, type_map=["O", "H"])
    assert kinds(report) == {
        "missing_type": 11, "missing_label": 1, "too_close": 1, "duplicate": 1, "force_outlier": 1, "energy_outlier": 1,
    }  # fmt: skip
    messages = {problem.kind: problem.message for problem in report.problems}
    assert "has Cu, not in the type_map (O H)" in messages["missing_type"]
    assert "has no forces" in messages["missing_label"]
    assert "atoms Cu 0 and Cu 1 are 0.900 Å apart, expected at least 1.584 Å" in messages["too_close"]
    assert "is the same structure as" in messages["duplicate"]
    assert "a force is" in messages["force_outlier"]
    assert "#5: the energy is -9.9" in messages["energy_outlier"]
    assert report.count("duplicate") == 1


def test_values_that_are_not_finite_and_cells_without_volume(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", frames(4)) / "3/set.000"
    for name, row, column in (("coord", 0, 4), ("energy", 1, None), ("box", 2, slice(None))):
        array = np.load(folder / f"{name}.npy")
        array[(row, column) if column is not None else row] = np.nan if name != "box" else 0.0
        np.save(folder / f"{name}.npy", array)
    report = inspect_dataset(tmp_path / "d")
    assert kinds(report) == {"nan": 2, "bad_cell": 1}
    assert report.problems[0].message == "d/3/set.000#0: coordinates of atom 1 is nan, expected a finite number: " + (
        "remove or repair the frame"
    )


def test_duplicates_between_parts_are_named_by_the_parts(tmp_path: Path) -> None:
    made = frames()
    written(tmp_path / "d/train", made[:10])
    written(tmp_path / "d/valid", made[9:14])
    written(tmp_path / "d/test", [made[0], *made[14:], made[14]])
    report = inspect_dataset(tmp_path / "d")
    assert kinds(report) == {"duplicate_train_valid": 1, "duplicate_train_test": 1, "duplicate": 1}
    assert report.count("duplicate") == 3
    assert list(report.parts) == ["train", "valid", "test"]
    found = {problem.kind: problem.frames[0] for problem in report.problems}
    assert found["duplicate_train_valid"].startswith("valid: valid/3/set.000#")
    by_name = inspect_dataset({"a": tmp_path / "d/train", "b": open_dataset(tmp_path / "d/valid")})
    assert kinds(by_name) == {"duplicate_a_b": 1}
    assert by_name.to_dict()["problems"][0]["kind"] == "duplicate_a_b"


def test_limits_that_are_given_are_used(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", frames())
    forces = [np.linalg.norm(f.labels["forces"], axis=1).max() for f in frames()]
    report = inspect_dataset(folder, force_max=float(np.median(forces)), min_distance=1.2)
    assert kinds(report) == {"too_close": 10, "force_outlier": 10}
    assert "(given as force_max)" in report.problems[1].message
    with pytest.raises(DataError, match="labels: force is not a field, expected some of energy, forces"):
        inspect_dataset(folder, labels=["force"])


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    made = frames()
    rows = {row.field: row for row in field_statistics(open_dataset(written(tmp_path / "d", made)))}
    energies = np.array([frame.labels["energy"] / 3 for frame in made])
    forces = np.array([frame.labels["forces"] for frame in made])
    for row, values, unit in ((rows["energy"], energies, "eV/atom"), (rows["forces"], forces, "eV/Å")):
        assert (row.frames, row.unit) == (20, unit)
        expected = (values.mean(), values.std(), values.min(), values.max())
        np.testing.assert_allclose((row.mean, row.std, row.min, row.max), expected, rtol=1e-10)
    assert statistics_text(list(rows.values())).splitlines()[1].startswith("energy  eV/atom")


def test_neighbours_are_counted(tmp_path: Path) -> None:
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 3.6
    frame = Frame(fcc, np.array([2, 2, 2, 2]), np.eye(3) * 3.6, {"energy": np.array(0.0)})
    found = neighbor_statistics(open_dataset(written(tmp_path / "d", [frame])), 3.0)
    assert (found.most, found.mean, found.most_by_type) == (12, 12.0, {"O": 0, "H": 0, "Cu": 12})
    assert found.min_distance == pytest.approx(3.6 / 2**0.5)
    with pytest.raises(DataError, match="cutoff is 0 Å, expected more than zero"):
        neighbor_statistics(open_dataset(tmp_path / "d"), 0)
