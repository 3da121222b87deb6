"""Systems in HDF5 files and in LMDB, and paths that are patterns: values, laziness, and every sentence of refusal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dpsim.data import Frame, open_dataset, write_mixed, write_npy
from dpsim.data.dataset import find_systems
from dpsim.data.lmdb import Database
from dpsim.errors import DataError, SetupError

NAMES = ("O", "H")


def frames(number: int = 4, seed: int = 0, *, cell: bool = True, virial: bool = True) -> list[Frame]:
    """Random frames of three and four atoms, in turn."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(number):
        types = np.array([0, 1, 1] if k % 2 else [0, 0, 1, 1])
        n = len(types)
        labels = {"energy": rng.normal(size=()), "forces": rng.normal(size=(n, 3))}
        if virial:
            labels["virial"] = rng.normal(size=(3, 3))
        box = np.eye(3) * 8 + rng.normal(size=(3, 3)) if cell else None
        made.append(Frame(rng.normal(size=(n, 3)), types, box, labels))
    return made


def assert_same(one: Frame, other: Frame) -> None:
    """Everything but where the frames lie."""
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.types, other.types)
    assert (one.cell is None) == (other.cell is None)
    if one.cell is not None:
        np.testing.assert_array_equal(one.cell, other.cell)
    assert set(one.labels) == set(other.labels)
    for name, value in one.labels.items():
        np.testing.assert_array_equal(value, other.labels[name])


# --- HDF5 ------------------------------------------------------------------------------------------------------


def into_hdf5(folder: Path, group: Any) -> None:
    """Copy a system folder into a group of an HDF5 file, as a file system would look there."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npy":
            group[name] = np.load(path)
        elif path.name == "type.raw":
            group[name] = np.loadtxt(path, dtype=np.int32, ndmin=1)
        elif path.name == "type_map.raw":
            group[name] = np.array(path.read_text().split(), dtype="S")
        elif path.name == "nopbc":
            group[name] = True


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The same frames in folders and in one HDF5 file."""
    write_npy(frames(6), tmp_path / "folders", NAMES)
    write_npy(frames(3, 1, cell=False), tmp_path / "folders/open", NAMES)
    write_mixed(frames(4, 2), tmp_path / "folders/mixed", NAMES, set_size=1)
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        for system in open_dataset(tmp_path / "folders").systems:
            into_hdf5(system.path, file.create_group(str(system.path.relative_to(tmp_path / "folders"))))
    return tmp_path / "folders", tmp_path / "all.hdf5"


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_hdf5_gives_the_frames_of_the_folders(
    both: tuple[Path, Path], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsim.data.hdf5.SMALL", small)
    folders, file = both
    plain, packed = open_dataset(folders), open_dataset(file)
    assert len(plain) == len(packed) == 13
    assert [s.name.partition("/")[2] for s in plain.systems] == [s.name.partition("#/")[2] for s in packed.systems]
    for one, other in zip(plain, packed, strict=True):
        assert_same(one, other)
    assert plain.labels == packed.labels
    assert {system.format for system in packed.systems} == {"deepmd/hdf5"}
    assert packed[0].source.startswith("all.hdf5#/O1H2/set.000#0") or "#/" in packed[0].source


def test_one_group_and_the_root(both: tuple[Path, Path], tmp_path: Path) -> None:
    folders, file = both
    assert [s.name for s in open_dataset(f"{file}#/open").systems] == ["all.hdf5#/open/O2H2", "all.hdf5#/open/OH2"]
    alone = open_dataset(f"{file}#open/OH2")
    assert_same(alone[0], open_dataset(folders / "open/OH2")[0])
    assert alone[0].cell is None
    with h5py.File(tmp_path / "root.h5", "w") as target:
        into_hdf5(folders / "OH2", target)
    root = open_dataset([tmp_path / "root.h5", tmp_path / "root.h5"])
    assert [s.name for s in root.systems] == ["root.h5"]
    assert_same(root[2], open_dataset(folders / "OH2")[2])
    assert [one.name for one in find_systems(file, ["mixed/*"])] == ["all.hdf5#/mixed/3", "all.hdf5#/mixed/4"]


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_flat_arrays_in_hdf5(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of numbers for the set, as one- or two-dimensional arrays; one frame in one dimension."""
    monkeypatch.setattr("dpsim.data.hdf5.SMALL", small)
    rng = np.random.default_rng(0)
    coord, energy = rng.normal(size=(3, 6)), rng.normal(size=3)
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        for name, shape in (("a", (3, 6)), ("b", (3, 6))):
            group = file.create_group(name)
            group["type.raw"], group["type_map.raw"], group["nopbc"] = [0, 1], np.array(["O", "H"], "S"), 1
            group["set.000/coord.npy"] = coord.reshape(shape)
            group["set.000/energy.npy"] = energy.reshape((1, 3) if name == "a" else (3, 1))
            group["set.000/force.npy"] = -coord.ravel() if name == "a" else -coord.reshape(1, 18)
        one = file.create_group("c")
        one["type.raw"], one["type_map.raw"], one["nopbc"] = [0, 1], np.array(["O", "H"], "S"), 1
        one["set.000/coord.npy"] = coord[0]
    data = open_dataset(tmp_path / "d.hdf5")
    assert [s.n_frames for s in data.systems] == [3, 3, 1]
    for i in range(6):
        np.testing.assert_array_equal(data[i].labels["forces"].ravel(), -coord[i % 3])
        assert data[i].labels["energy"] == energy[i % 3]
    np.testing.assert_array_equal(data[6].positions.ravel(), coord[0])


def test_hdf5_of_dpdata_is_read(tmp_path: Path) -> None:
    import dpdata

    write_npy(frames(6), tmp_path / "f", NAMES)
    systems = dpdata.MultiSystems()
    systems.load_systems_from_file(str(tmp_path / "f"), fmt="deepmd/npy")
    systems.to("deepmd/hdf5", str(tmp_path / "d.hdf5"))
    read = open_dataset(tmp_path / "d.hdf5", NAMES)
    assert len(read) == 6
    energies = sorted(float(frame.labels["energy"]) for frame in read)
    np.testing.assert_allclose(energies, sorted(float(f.labels["energy"]) for f in frames(6)), rtol=1e-14)


def test_large_hdf5_arrays_are_read_row_by_row(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.data import hdf5

    monkeypatch.setattr("dpsim.data.hdf5.SMALL", 0)
    data, rows = open_dataset(f"{both[1]}#/OH2"), []
    take = hdf5.Hdf5Array._take
    monkeypatch.setattr(
        hdf5.Hdf5Array, "_take", lambda self, what: rows.append(len(found := take(self, what))) or found
    )
    assert data[1].n_atoms == 3
    assert set(rows) == {1}


def test_changed_hdf5_files_are_read_anew(tmp_path: Path) -> None:
    def write(energy: float) -> None:
        with h5py.File(tmp_path / "d.new", "w") as file:
            file["type.raw"], file["type_map.raw"], file["nopbc"] = [0], np.array(["H"], "S"), 1
            file["set.000/coord.npy"], file["set.000/energy.npy"] = np.zeros((1, 3)), [energy]
        (tmp_path / "d.new").replace(tmp_path / "d.hdf5")

    write(1.0)
    assert open_dataset(tmp_path / "d.hdf5")[0].labels["energy"] == 1.0
    write(2.0)
    assert open_dataset(tmp_path / "d.hdf5")[0].labels["energy"] == 2.0


def test_damaged_hdf5_files(both: tuple[Path, Path], tmp_path: Path) -> None:
    file = both[1]
    short = tmp_path / "short.hdf5"
    short.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"short\.hdf5 cannot be read as HDF5: .*truncated file.* make it again"):
        open_dataset(short)
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(DataError, match=r"text\.h5 cannot be read as HDF5"):
        open_dataset(tmp_path / "text.h5")
    with pytest.raises(DataError, match=r"all\.hdf5 has no group '/nothing', expected one of those it has: .*mixed"):
        open_dataset(f"{file}#/nothing")
    with pytest.raises(DataError, match=r"none\.hdf5#/g does not exist"):
        open_dataset(tmp_path / "none.hdf5#/g")
    file = tmp_path / "wrong.hdf5"
    file.write_bytes(both[1].read_bytes())
    with h5py.File(file, "a") as h5:
        h5["OH2/set.000/force.npy"][1, 4] = np.nan
        del h5["O2H2/set.000/virial.npy"]
        h5["O2H2/set.000/virial.npy"] = np.zeros((2, 9))
    with pytest.raises(DataError, match=r"wrong\.hdf5#/OH2/set\.000#1: forces of atom 1 is nan"):
        open_dataset(f"{file}#/OH2")[1]
    with pytest.raises(DataError, match=r"O2H2/set\.000/virial\.npy has shape \(2, 9\), expected \(3, 9\)"):
        open_dataset(f"{file}#/O2H2")
    with pytest.raises(DataError, match=r"element H, which is not in the type_map \(O\)"):
        open_dataset(f"{file}#/OH2", ["O"])


def test_hdf5_beside_folders_is_named_not_found(both: tuple[Path, Path], tmp_path: Path) -> None:
    assert len(open_dataset(tmp_path)) == 13, "the file holds the same frames again"
    (tmp_path / "only").mkdir()
    both[1].rename(tmp_path / "only/all.hdf5")
    with pytest.raises(DataError, match=r"only holds no system.*HDF5 files are named themselves: .*all\.hdf5"):
        open_dataset(tmp_path / "only")


# --- LMDB ------------------------------------------------------------------------------------------------------


def packed(array: Any) -> dict[str, Any]:
    value = np.asarray(array)
    return {"type": str(value.dtype), "shape": list(value.shape), "data": value.tobytes()}


def record(frame: Frame) -> dict[str, Any]:
    """A frame as DeePMD-kit's tools write it."""
    made = {
        "coords": packed(frame.positions),
        "atom_types": packed(frame.types.astype(np.int32)),
        "atom_numbs": [0],
        "energies": packed(frame.labels["energy"]),
        "forces": packed(frame.labels["forces"]),
    }
    if frame.cell is not None:
        made["cells"] = packed(frame.cell)
    if "virial" in frame.labels:
        made["virials"] = packed(frame.labels["virial"])
    return made


def write_lmdb(path: Path, records: list[Any], **metadata: Any) -> Path:
    import lmdb
    import msgpack

    described = {"nframes": len(records), "frame_idx_fmt": "012d", "type_map": list(NAMES)}
    described = {key: value for key, value in (described | metadata).items() if value is not None}
    environment = lmdb.open(str(path), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"__metadata__", msgpack.packb(described))
        for i, one in enumerate(records):
            if one is not None:
                raw = one if isinstance(one, bytes) else msgpack.packb(one)
                transaction.put(format(i, described["frame_idx_fmt"]).encode(), raw)
    environment.close()
    return path


def test_lmdb_gives_the_frames(tmp_path: Path) -> None:
    made = [*frames(4), *frames(2, 1, cell=False, virial=False)]
    path = write_lmdb(tmp_path / "d.lmdb", [record(f) for f in made], frame_nlocs=[f.n_atoms for f in made])
    data = open_dataset(path)
    assert len(data) == 6
    assert data.type_map == NAMES
    for one, other in zip(made, data, strict=True):
        assert_same(one, other)
    assert data.labels == {"energy": 6, "forces": 6, "virial": 4}
    assert data.has("virial")
    assert not data.has("dipole")
    system = data.systems[0]
    assert (system.name, system.format, system.periodic) == ("d.lmdb", "deepmd/lmdb", True)
    assert [system.n_atoms(i) for i in range(6)] == [4, 3, 4, 3, 4, 3]
    assert system.formula(1) == "OH2"
    assert data[5].source == f"{path}#5"


def test_lmdb_systems_are_numbered_and_types_renamed(tmp_path: Path) -> None:
    made = frames(6)
    path = write_lmdb(tmp_path / "d", [record(f) for f in made], frame_system_ids=[1, 0, 1, 0, 1, 3])
    data = open_dataset([tmp_path], ("H", "C", "O"))
    assert [s.n_frames for s in data.systems] == [2, 3, 0, 1]
    assert data.systems[0].name.endswith("d/0")
    np.testing.assert_array_equal(data[0].types, [2, 0, 0])
    assert [float(f.labels["energy"]) for f in data] == [float(made[i].labels["energy"]) for i in (1, 3, 0, 2, 4, 5)]
    assert data.systems[1].n_atoms(0) == 4, "without frame_nlocs the frame is asked"
    assert find_systems(path)[0].path == path


def test_other_names_and_labels_that_do_not_count(tmp_path: Path) -> None:
    base, other = record(frames(1)[0]), record(frames(1)[0])
    other |= {"find_force": 0.0, "atomic_dipole": packed(np.ones((4, 3))), "fparam": [1.0, 2.0], "note": "text"}
    other["energy"] = float(np.pi)
    del other["energies"]
    path = write_lmdb(tmp_path / "d", [base, other])
    first, second = open_dataset(path)
    assert set(first.labels) == {"energy", "forces", "virial"}
    assert set(second.labels) == {"energy", "virial", "atomic_dipole", "fparam"}
    assert second.labels["energy"] == np.pi
    np.testing.assert_array_equal(second.labels["fparam"], [1, 2])
    named = open_dataset(write_lmdb(tmp_path / "p", [base | {"gap": 3.0}]), property_name="gap")
    assert named[0].labels["property"] == [3.0]


def test_lmdb_of_dpdata_is_read(tmp_path: Path) -> None:
    import dpdata

    write_npy(frames(6), tmp_path / "f", NAMES)
    systems = dpdata.MultiSystems()
    systems.load_systems_from_file(str(tmp_path / "f"), fmt="deepmd/npy")
    systems.to("deepmd/lmdb", str(tmp_path / "d.lmdb"))
    read = open_dataset(tmp_path / "d.lmdb")
    energies = sorted(float(frame.labels["energy"]) for frame in read)
    np.testing.assert_allclose(energies, sorted(float(f.labels["energy"]) for f in frames(6)), rtol=1e-14)
    assert len(read.systems) == 2


BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "missing": (None, r"d lacks frame 1 \(key '000000000001'\): it was not written completely"),
    "damaged": (b"\xc1\xc1", r"d: frame 1 is damaged \(.+\): make the data again"),
    "no map": ([1, 2], r"d: frame 1 is a list, expected a map"),
    "no types": ({"atom_types": None}, r"d#1: atype cannot be read \(NoneType instead of numbers\)"),
    "short array": (
        {"coords": {"type": "float64", "shape": [4, 3], "data": b"12345678"}},
        r"d#1: coord cannot be read",
    ),
    "objects": ({"coords": {"type": "O", "shape": [1], "data": b"12345678"}}, r"d#1: coord cannot be read"),
    "shape": ({"forces": packed(np.zeros((5, 3)))}, r"d#1: force has shape \(5, 3\), expected 4x3 numbers"),
    "nan": ({"forces": packed(np.full((4, 3), np.inf))}, r"d#1: forces of atom 0 is inf, expected a finite number"),
    "index": ({"atom_types": packed([0, 1, 2, 0])}, r"d#1: types run from 0 to 2, expected 0 to 1"),
    "twice": ({"energy": 1.0}, r"d#1: has energies and energy, which mean the same: write one"),
    "box": ({"cells": packed(np.zeros((3, 3)))}, r"d#1: the box has a volume of 0"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records_name_file_and_frame(name: str, tmp_path: Path) -> None:
    change, message = BAD_RECORDS[name]
    good = record(frames(1)[0])
    bad = good | change if isinstance(change, dict) else change
    data = open_dataset(write_lmdb(tmp_path / "d", [good, bad, good]))
    assert data[0].n_atoms == data[2].n_atoms == 4
    with pytest.raises(DataError, match=message):
        data[1]


def test_bad_databases(tmp_path: Path) -> None:
    good = [record(f) for f in frames(3)]
    (tmp_path / "empty.lmdb").mkdir()
    with pytest.raises(DataError, match=r"empty\.lmdb cannot be read as LMDB"):
        open_dataset(tmp_path / "empty.lmdb")
    path = write_lmdb(tmp_path / "short", good)
    whole = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(whole[: len(whole) - 4096])
    with pytest.raises(DataError, match=r"data\.mdb ends after \d+ of \d+ bytes: it was not written completely"):
        open_dataset(path)
    with pytest.raises(DataError, match=r"lacks frame 4"):
        open_dataset(write_lmdb(tmp_path / "few", good, nframes=5))
    with pytest.raises(DataError, match=r"nframes is None"):
        open_dataset(write_lmdb(tmp_path / "unnumbered", good, nframes=None))
    with pytest.raises(DataError, match=r"frame_idx_fmt is '9\.9f'"):
        open_dataset(write_lmdb(tmp_path / "odd", [], frame_idx_fmt="9.9f"))
    with pytest.raises(DataError, match=r"frame_nlocs has 2 entries, expected 3"):
        open_dataset(write_lmdb(tmp_path / "table", good, frame_nlocs=[3, 4]))
    unnamed = write_lmdb(tmp_path / "unnamed", good, type_map=None)
    with pytest.raises(DataError, match=r"unnamed has no type_map, so the elements of its types are not known"):
        open_dataset(unnamed)
    assert open_dataset(unnamed, ["H", "O"])[0].formula(["H", "O"]) == "H2O2"
    with pytest.raises(DataError, match=r"other#0: has element H, which is not in the type_map \(O\)"):
        open_dataset(write_lmdb(tmp_path / "other", good), ["O"])[0]


def test_missing_packages_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lmdb(tmp_path / "d.lmdb", [record(frames(1)[0])])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(SetupError, match=r"d\.lmdb: the Python package 'lmdb', .* pip install lmdb msgpack"):
        open_dataset(path)


def test_records_are_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = Database.record
    monkeypatch.setattr(Database, "record", lambda self, i: asked.append(i) or read(self, i))
    path = write_lmdb(tmp_path / "d", [record(f) for f in frames(5)], frame_nlocs=[4, 3, 4, 3, 4])
    data = open_dataset(path)
    assert data[3].n_atoms == data.systems[0].n_atoms(1) == 3
    assert asked == [4, 3], "the last one, to see whether the file is whole, and the one wanted"


# --- patterns --------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Systems in two levels of folders, an LMDB, and things that are none."""
    for name in ("run1/a", "run1/b", "run2/a", "run10/a", ".hidden/a"):
        write_npy(frames(2), tmp_path / name, NAMES)
    write_lmdb(tmp_path / "more/d.lmdb" if (tmp_path / "more").mkdir() is None else tmp_path, [record(frames(1)[0])])
    (tmp_path / "notes").mkdir()
    (tmp_path / "run1/readme.txt").write_text("text")
    return tmp_path


def names(data: Any) -> list[str]:
    return ["/".join(s.path.parts[-3:-1]) if s.path.suffix != ".lmdb" else s.path.name for s in data.systems]


def test_search_and_globs(tree: Path) -> None:
    everything = names(open_dataset(tree))
    assert everything == ["d.lmdb", *(f"{run}" for run in ("run1/a", "run1/a", "run1/b", "run1/b")),
                          "run2/a", "run2/a", "run10/a", "run10/a"]  # fmt: skip
    assert names(open_dataset(tree / "run*/a")) == ["run1/a", "run1/a", "run2/a", "run2/a", "run10/a", "run10/a"]
    assert names(open_dataset([tree / "run2", tree / "run?/*"]))[:2] == ["run2/a", "run2/a"]
    assert len(open_dataset([tree / "run2", tree / "run?/*"])) == 6
    assert len(open_dataset(f"{tree}/**/OH2")) == 4
    assert names(open_dataset(f"{tree}/*")) == everything


def test_patterns_of_a_recursive_search(tree: Path) -> None:
    assert names(open_dataset(tree, patterns=["run1/*/OH2"])) == ["run1/a", "run1/b"]
    assert len(open_dataset(tree, patterns=["run1/**"]).systems) == 4
    assert names(open_dataset(tree, patterns=["b/*", "*.lmdb"])) == ["d.lmdb", "run1/b", "run1/b"]
    with pytest.raises(DataError, match=r"holds no system that matches x\*, y, expected a folder with type\.raw"):
        open_dataset(tree, patterns=["x*", "y"])


def test_patterns_without_match_are_named(tree: Path) -> None:
    with pytest.raises(DataError, match=r"run7\*/a matches nothing, expected a folder, HDF5 file or LMDB"):
        open_dataset(tree / "run7*/a")
    with pytest.raises(DataError, match=r"\*\.txt matches 1 files, but none is a folder, HDF5 file or LMDB"):
        open_dataset(tree / "run1/*.txt")
    with pytest.raises(DataError, match=r"note\* matches .*notes, but there is no system \(type\.raw\) in or below it"):
        open_dataset(tree / "note*")
    with pytest.raises(DataError, match=r"gone does not exist, expected a folder"):
        open_dataset([tree / "run1", tree / "gone"])


def test_globs_over_hdf5_files(both: tuple[Path, Path], tmp_path: Path) -> None:
    assert len(open_dataset(f"{tmp_path}/*.hdf5#/open")) == 3
    assert len(open_dataset(f"{tmp_path}/a*.hdf5")) == 13


# --- numb_copy -------------------------------------------------------------------------------------------------


def test_frames_count_as_often_as_numb_copy_says(tmp_path: Path) -> None:
    made = [f for f in frames(8) if f.n_atoms == 3]
    (path,) = write_npy(made, tmp_path / "d", NAMES, set_size=2)
    np.save(path / "set.000/numb_copy.npy", [[2], [0]])
    data = open_dataset(path)
    energies = [float(f.labels["energy"]) for f in made]
    assert [float(f.labels["energy"]) for f in data] == [energies[0], energies[0], energies[2], energies[3]]
    assert [f.source.rpartition("/")[2] for f in data] == ["set.000#0", "set.000#0", "set.001#0", "set.001#1"]
    assert data.labels == {"energy": 4, "forces": 4, "virial": 4}
    np.save(path / "set.000/numb_copy.npy", [1.5, 1])
    with pytest.raises(DataError, match=r"numb_copy\.npy: frame 0 counts 1\.5 times, expected a whole number"):
        open_dataset(path)
    np.save(path / "set.000/numb_copy.npy", [1, 1, 1])
    with pytest.raises(DataError, match=r"set\.000/numb_copy\.npy has shape \(3,\), expected \(2, 1\)"):
        open_dataset(path)
