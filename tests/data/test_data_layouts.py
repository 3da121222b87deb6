"""Layouts of data sets that are written, and labels that have a name of their own."""

from __future__ import annotations

import json
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest

from data_tools.convert import Source, convert
from dpsim.cli.main import run as cli
from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.data.lmdb import METADATA
from dpsim.data.write_lmdb import write_lmdb
from dpsim.errors import DataError
from dpsim.fields import fields_of_property

TYPE_MAP = ("O", "H")


def made(number: int) -> list[Frame]:
    """Frames of two to four atoms; some are open, some have no forces, all have a property of two numbers."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(number):
        n = 2 + k % 3
        labels = {"energy": np.array(rng.normal()), "property": rng.normal(size=2)}
        labels |= {"forces": rng.normal(size=(n, 3)), "atomic_energy": rng.normal(size=n)} if k % 2 else {}
        labels |= {"fparam": rng.normal(size=1), "aparam": rng.normal(size=(n, 1))}
        cell = None if k % 4 == 0 else np.eye(3) * 9 + rng.normal(scale=0.1, size=(3, 3))
        frames.append(Frame(rng.uniform(0, 9, (n, 3)), rng.integers(0, 2, n), cell, labels))
    return frames


def key(frame: Frame) -> bytes:
    return frame.positions.tobytes()


def assert_same(found: list[Frame], expected: list[Frame]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.types, b.types)
        assert (a.cell is None) == (b.cell is None)
        if a.cell is not None:
            np.testing.assert_array_equal(a.cell, b.cell)
        assert set(a.labels) == set(b.labels)
        for name, value in a.labels.items():
            np.testing.assert_array_equal(value, b.labels[name])


def test_lmdb_holds_what_was_written(tmp_path: Path) -> None:
    frames = made(13)
    (path,) = write_lmdb(frames, tmp_path / "d.lmdb", TYPE_MAP, fields=fields_of_property("gap"))
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        about = msgpack.unpackb(transaction.get(METADATA))
        first = msgpack.unpackb(transaction.get(b"000000000001"))
    dataset = open_dataset(path, property_name="gap")
    assert dataset.type_map == TYPE_MAP
    assert_same(list(dataset), frames)
    groups = {(f.n_atoms, f.cell is None, "forces" in f.labels) for f in frames}
    assert len(dataset.systems) == len(groups), "systems as in deepmd/npy/mixed"
    assert not any("property" in frame.labels for frame in open_dataset(path))
    assert (about["nframes"], about["frame_nlocs"]) == (13, [frame.n_atoms for frame in frames])
    assert {"coords", "cells", "atom_types", "energies", "forces", "gap", "atom_ener", "fparam", "aparam"} == set(first)
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "dataset.json"]


def test_lmdb_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no frames"):
        write_lmdb([], tmp_path / "d.lmdb", TYPE_MAP)
    wrong = [*made(2), Frame(np.zeros((1, 3)), np.array([7]), None, {})]
    with pytest.raises(DataError, match="type"):
        write_lmdb(wrong, tmp_path / "d.lmdb", TYPE_MAP)
    assert not list(tmp_path.iterdir())
    write_lmdb(made(2), tmp_path / "d.lmdb", TYPE_MAP)
    with pytest.raises(DataError, match="exists already"):
        write_lmdb(made(2), tmp_path / "d.lmdb", TYPE_MAP)
    write_lmdb(made(3), tmp_path / "d.lmdb", TYPE_MAP, overwrite=True)
    assert len(open_dataset(tmp_path / "d.lmdb")) == 3


def test_more_frames_than_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsim.data.write_lmdb._AT_ONCE", 3)
    frames = made(9)
    write_lmdb(frames, tmp_path / "d.lmdb", TYPE_MAP)
    assert len(open_dataset(tmp_path / "d.lmdb")) == 9


@pytest.mark.parametrize("layout", ["mixed", "npy", "lmdb"])
def test_property_is_converted_under_its_name(tmp_path: Path, layout: str) -> None:
    frames = made(12)
    write_mixed(frames, tmp_path / "in", TYPE_MAP, fields=fields_of_property("gap"))
    assert len(list((tmp_path / "in").rglob("gap.npy"))) == len(list((tmp_path / "in").rglob("coord.npy")))
    parts = ["--split", "train=0.5,valid=0.5", "--layout", layout, "--property", "gap", "--type-map", "O H"]
    assert cli(["data", "convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *parts]) == 0
    both = [
        frame for part in ("train", "valid") for frame in open_dataset(tmp_path / "out" / part, property_name="gap")
    ]
    assert_same(both, frames)
    card = json.loads((tmp_path / "out/dataset.json").read_text())
    assert card["format"] == {"mixed": "deepmd/npy/mixed", "npy": "deepmd/npy", "lmdb": "deepmd/lmdb"}[layout]
    assert card["fields"]["property"] == 12
    again = ["-o", str(tmp_path / "again"), "--property", "gap", "--layout", layout]
    assert cli(["data", "dedupe", str(tmp_path / "out/train"), str(tmp_path / "out/train"), *again]) == 0
    assert len(open_dataset(tmp_path / "again")) == 6


def test_property_of_extended_xyz(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(
        '1\nProperties=species:S:1:pos:R:3 gap=1.5 pbc="F F F"\nO 0 0 0\n'
        '1\nProperties=species:S:1:pos:R:3 energy=-3 pbc="F F F"\nH 0 0 0\n'
    )
    report = convert([str(tmp_path / "a.xyz")], tmp_path / "out", property_name="gap")
    assert report.fields == {"energy": 1, "property": 1}
    assert report.sources[0].keys["property"] == {"gap": 1}
    (value,) = [
        f.labels["property"]
        for f in open_dataset(tmp_path / "out", property_name="gap")
        if f.labels.get("property") is not None
    ]
    assert value.tolist() == [1.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("energy", "a property cannot be named 'energy': choose a name that no other array has"),
        ("../gap", r"a property cannot be named '\.\./gap'"),
        ("gpa", "no frame has the property 'gpa': correct its name"),
    ],
)
def test_names_that_are_none(tmp_path: Path, name: str, message: str) -> None:
    write_mixed(made(4), tmp_path / "in", TYPE_MAP, fields=fields_of_property("gap"))
    with pytest.raises(DataError, match=message):
        convert([Source(path=str(tmp_path / "in"))], tmp_path / "out", property_name=name)
    assert not (tmp_path / "out").exists()
