"""Round trips of frames through both layouts, with dpdata on the other side, and what writing refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from dpsim.data import Frame, open_dataset, write_mixed, write_npy
from dpsim.data.files import new_folder, write_json
from dpsim.data.frame import value_shape
from dpsim.errors import DataError
from dpsim.fields import FIELDS

TYPE_MAP = ("O", "H", "Cu")
floats = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw a frame of one to four atoms with any of the fields."""
    n = draw(st.integers(1, 4))
    types = draw(hnp.arrays(np.int64, n, elements=st.integers(0, len(TYPE_MAP) - 1)))
    cell = None
    if draw(st.booleans()):
        cell = np.eye(3) * draw(st.floats(3, 20)) + draw(hnp.arrays(float, (3, 3), elements=st.floats(-0.5, 0.5)))
    labels = {}
    for entry in FIELDS:
        if draw(st.booleans()):
            shape = tuple(draw(st.integers(1, 3)) if size == -1 else size for size in value_shape(entry, n))
            labels[entry.name] = draw(hnp.arrays(float, shape, elements=floats))
    origin = draw(st.sampled_from(["", "a", "b/c.xyz"]))
    return Frame(draw(hnp.arrays(float, (n, 3), elements=floats)), types, cell, labels, "drawn", origin)


def signature(frame: Frame, type_map: tuple[str, ...], with_origin: bool = True) -> tuple[Any, ...]:
    """Return everything of a frame in a form that compares and sorts."""
    symbols = tuple(type_map[t] for t in frame.types)
    labels = tuple(sorted((name, value.shape, value.tobytes()) for name, value in frame.labels.items()))
    cell = b"" if frame.cell is None else frame.cell.tobytes()
    return symbols, frame.positions.tobytes(), cell, labels, frame.origin if with_origin else ""


@pytest.mark.parametrize("write", [write_mixed, write_npy])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(frames(), min_size=1, max_size=6), size=st.sampled_from([None, 1, 2]))
def test_frames_come_back_bit_for_bit(tmp_path: Path, write: Any, drawn: list[Frame], size: int | None) -> None:
    write(drawn, tmp_path / "out", TYPE_MAP, set_size=size, overwrite=True)
    dataset = open_dataset(tmp_path / "out", TYPE_MAP)
    known = any(frame.origin for frame in drawn)
    read = sorted(signature(frame, TYPE_MAP, known and frame.origin in ("a", "b/c.xyz")) for frame in dataset)
    expected = sorted(signature(frame, TYPE_MAP) for frame in drawn)
    assert read == expected
    assert {system.format for system in dataset.systems} == {
        "deepmd/npy/mixed" if write is write_mixed else "deepmd/npy"
    }


def box_of(n: int, composition: list[int], seed: int, **labels: Any) -> Frame:
    rng = np.random.default_rng(seed)
    full = {
        "energy": np.array(rng.normal()),
        "forces": rng.normal(size=(n, 3)),
        "virial": rng.normal(size=(3, 3)),
        **labels,
    }
    cell = np.diag(rng.uniform(5, 9, 3))  # diagonal, because dpdata turns others into lower triangles
    return Frame(rng.uniform(0, 5, (n, 3)), np.array(composition), cell, full, f"box{seed}", f"run{seed % 2}")


FRAMES = [box_of(3, [0, 1, 1], 1), box_of(3, [1, 1, 1], 2), box_of(3, [0, 1, 1], 3), box_of(4, [2, 2, 0, 1], 4)]


def test_mixed_layout_is_that_of_dpdata(tmp_path: Path) -> None:
    written = write_mixed(FRAMES, tmp_path / "out", TYPE_MAP)
    assert [path.name for path in written] == ["3", "4"]
    folder = tmp_path / "out/3"
    assert (folder / "type.raw").read_text().split() == ["0", "0", "0"]
    assert (folder / "type_map.raw").read_text().split() == list(TYPE_MAP)
    shapes = {file.stem: np.load(file).shape for file in (folder / "set.000").iterdir()}
    assert shapes == {
        "coord": (3, 9), "box": (3, 9), "energy": (3,), "force": (3, 9), "virial": (3, 9), "real_atom_types": (3, 3),
    }  # fmt: skip
    card = json.loads((folder / "dataset.json").read_text())
    assert (card["format"], card["frames"], card["origins"]) == (
        "deepmd/npy/mixed",
        3,
        [["run1", 1], ["run0", 1], ["run1", 1]],
    )


def test_frames_that_cannot_share_a_folder_get_telling_names(tmp_path: Path) -> None:
    bare = Frame(np.zeros((3, 3)) + np.eye(3), np.array([0, 1, 1]), None, {"energy": np.array(1.0)})
    names = sorted(path.name for path in write_mixed([FRAMES[0], bare], tmp_path / "out", TYPE_MAP))
    assert names == ["3-energy-forces-virial", "3-energy-open"]
    assert (tmp_path / "out/3-energy-open/nopbc").exists()
    two = [Frame(f.positions, f.types[::s], f.cell, f.labels) for f, s in ((FRAMES[0], 1), (FRAMES[0], -1))]
    names = sorted(path.name for path in write_npy(two, tmp_path / "plain", TYPE_MAP))
    assert names == ["OH2-energy-forces-virial", "OH2-energy-forces-virial-2"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("write", "form"), [(write_mixed, "deepmd/npy/mixed"), (write_npy, "deepmd/npy")])
def test_dpdata_reads_what_is_written(tmp_path: Path, write: Any, form: str) -> None:
    import dpdata

    paths = write(FRAMES, tmp_path / "out", TYPE_MAP)
    systems = dpdata.MultiSystems()
    if form == "deepmd/npy/mixed":
        systems.load_systems_from_file(str(tmp_path / "out"), fmt=form, labeled=True)
    else:
        for path in paths:
            systems.append(dpdata.LabeledSystem(str(path), fmt=form))
    energies = np.sort(np.concatenate([system.data["energies"] for system in systems]))
    np.testing.assert_array_equal(energies, np.sort([float(frame.labels["energy"]) for frame in FRAMES]))
    assert {name: len(system) for name, system in systems.systems.items()} == {"O1H2Cu0": 2, "O0H3Cu0": 1, "O1H1Cu2": 1}
    copper = systems.systems["O1H1Cu2"].data
    order = np.argsort(copper["atom_types"], kind="stable")
    assert [copper["atom_names"][t] for t in copper["atom_types"][order]] == ["O", "H", "Cu", "Cu"]
    np.testing.assert_allclose(copper["virials"][0], FRAMES[3].labels["virial"])
    np.testing.assert_allclose(np.sort(copper["forces"][0], axis=0), np.sort(FRAMES[3].labels["forces"], axis=0))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_dpdata_writes_is_read(tmp_path: Path) -> None:
    import dpdata

    write_npy(FRAMES, tmp_path / "plain", TYPE_MAP)
    source = open_dataset(tmp_path / "plain")
    systems = dpdata.MultiSystems(*[dpdata.LabeledSystem(str(s.path), fmt="deepmd/npy") for s in source.systems])
    systems.to_deepmd_npy_mixed(str(tmp_path / "mixed"))
    systems.to_deepmd_npy_mixed(str(tmp_path / "padded"), atom_numb_pad=8)
    systems.to_deepmd_npy(str(tmp_path / "again"))
    expected = sorted((frame.formula(TYPE_MAP), float(frame.labels["energy"])) for frame in FRAMES)
    for name, form in (("mixed", "deepmd/npy/mixed"), ("padded", "deepmd/npy/mixed"), ("again", "deepmd/npy")):
        dataset = open_dataset(tmp_path / name, TYPE_MAP)
        assert {system.format for system in dataset.systems} == {form}
        assert sorted((f.formula(TYPE_MAP), float(f.labels["energy"])) for f in dataset) == expected
        by_energy = {float(f.labels["energy"]): f for f in dataset}
        for frame in FRAMES:
            read = by_energy[float(frame.labels["energy"])]
            np.testing.assert_allclose(read.labels["virial"], frame.labels["virial"])
            np.testing.assert_allclose(np.sort(read.positions, axis=0), np.sort(frame.positions, axis=0))
    assert [system.n_places for system in open_dataset(tmp_path / "padded").systems] == [8]


def bad(**changes: Any) -> Frame:
    good = Frame(np.zeros((1, 3)), np.array([0]), None, {}, "f")
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (bad(positions=np.zeros((2, 3))), r"f: positions have shape \(2, 3\), expected \(1, 3\)"),
        (bad(types=np.array([3])), r"f: types run from 3 to 3, expected 0 to 2"),
        (bad(positions=np.full((1, 3), np.nan)), r"f: coordinates of atom 0 is nan"),
        (bad(cell=np.zeros((3, 3))), r"f: the box has a volume of 0 Å³ for 1 atoms"),
        (bad(cell=np.eye(2)), r"f: cell has shape \(2, 2\), expected \(3, 3\)"),
        (bad(labels={"force": np.zeros(3)}), r"f: 'force' is not a field, expected one of energy"),
        (bad(labels={"forces": np.zeros(3)}), r"f: forces has shape \(3,\), expected \(1, 3\) for 1 atoms"),
    ],
)
def test_malformed_frames_are_not_written(tmp_path: Path, frame: Frame, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        write_mixed([FRAMES[0], frame], tmp_path / "out", TYPE_MAP)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_and_existing_outputs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="out was not written: there are no frames"):
        write_mixed([], tmp_path / "out", TYPE_MAP)
    with pytest.raises(DataError, match="set_size is 0, expected at least one frame"):
        write_mixed(FRAMES, tmp_path / "out", TYPE_MAP, set_size=0)
    write_mixed(FRAMES, tmp_path / "out", TYPE_MAP)
    with pytest.raises(DataError, match="out exists already: remove it or choose another output folder"):
        write_mixed(FRAMES, tmp_path / "out", TYPE_MAP)
    write_mixed(FRAMES[:1], tmp_path / "out", TYPE_MAP, overwrite=True)
    assert len(open_dataset(tmp_path / "out")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    write_mixed(FRAMES[:1], tmp_path / "out", TYPE_MAP)
    before = sorted(tmp_path.rglob("*"))

    def fail() -> None:
        with new_folder(tmp_path / "out", overwrite=True) as folder:
            (folder / "new").touch()
            raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="in the midst"):
        fail()
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "out/kept").touch()
    with pytest.raises(DataError, match="out is no data set written by dpsim"):
        write_mixed(FRAMES[:1], tmp_path / "out", TYPE_MAP, overwrite=True)


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"x": 1})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, dpsim.data, data_tools; print(sorted({'torch', 'ase', 'dpdata', 'matplotlib'} & set(sys.modules)))"
    )
    with warnings.catch_warnings():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
