"""Data of a train stage: taken as they are where they are systems, converted first where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from dpsim.data import Frame, open_dataset, write_mixed, write_npy
from dpsim.errors import DataError
from dpsim.workflow.context import Artifact, Context
from dpsim.workflow.planning.files import match_files
from dpsim.workflow.stages.train import TrainStage
from dpsim.workflow.stages.training_data import DataFiles, data_paths, paths_of_slot


def copper(number: int, seed: int = 0) -> list[Any]:
    """Rattled cells of copper, labelled by EMT, as ASE's structures with ``REF_`` keys."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    made, rng = [], np.random.default_rng(seed)
    for _ in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        made.append(atoms)
    return made


def systems(path: Path, number: int = 2, seed: int = 0) -> list[Path]:
    frames = [
        Frame(
            atoms.positions,
            np.zeros(4, np.int64),
            atoms.cell.array,
            {"energy": np.array(atoms.info["REF_energy"]), "forces": atoms.arrays["REF_forces"]},
        )
        for atoms in copper(number, seed)
    ]
    return write_mixed(frames, path, ["Cu"])


def resolved(base: Path, *, folder: Path | None = None, **keys: Any) -> list[Path]:
    files = DataFiles(**keys)
    matches = match_files(base, files.patterns())
    return data_paths(files, base, matches, folder or base / "work", ["Cu"])


def test_systems_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("data/train", "data/valid", "more"):
        systems(tmp_path / name)
    assert resolved(tmp_path, path="data") == [tmp_path / "data"]
    assert resolved(tmp_path, path="*") == [tmp_path / "data", tmp_path / "more"]
    assert resolved(tmp_path, path="data", format="deepmd/npy/mixed") == [tmp_path / "data"]
    below = resolved(tmp_path, path="*", match=["train/*", "more/*"])
    assert below == [tmp_path / "data/train/4"], "the path below data and more counts"
    assert resolved(tmp_path, path=".", match=["more/4"]) == [tmp_path / "more/4"]
    with pytest.raises(DataError, match=r"holds no system that matches x\*"):
        resolved(tmp_path, path="data", match=["x*"])


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase.io import write

    monkeypatch.setenv("HOME", str(tmp_path))
    (system,) = systems(tmp_path / "data")
    write(tmp_path / "f.extxyz", copper(2))
    elsewhere = {"folder": tmp_path / "work"}
    assert resolved(tmp_path / "base", path="~/data", match=["4"], **elsewhere) == [system]
    (made,) = resolved(tmp_path / "base", path="~/f.extxyz", **elsewhere)
    assert len(open_dataset([made])) == 2


def test_groups_of_hdf5(tmp_path: Path) -> None:
    (folder,) = systems(tmp_path / "d")
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        for name in ("train", "test"):
            file[f"{name}/type.raw"], file[f"{name}/type_map.raw"] = [0] * 4, np.array(["Cu"], "S")
            for array in ("coord", "box", "energy", "force"):
                file[f"{name}/set.000/{array}.npy"] = np.load(folder / f"set.000/{array}.npy")
    assert resolved(tmp_path, path="all.hdf5#/train") == [tmp_path / "all.hdf5#/train"]
    assert resolved(tmp_path, path="*.hdf5#test") == [tmp_path / "all.hdf5#test"]
    assert len(open_dataset(resolved(tmp_path, path="all.hdf5"))) == 4
    keys = [
        TrainStage(data={"path": path}, model="dpa3-tiny", steps=1).key_options()["data"]  # type: ignore[arg-type]
        for path in ("all.hdf5#/train", "all.hdf5#/test", "all.hdf5", "other.hdf5")
    ]
    assert keys == [{"path": "<input>#/train"}, {"path": "<input>#/test"}, {"path": "<input>"}, {"path": "<input>"}]


def test_extended_xyz_is_converted_once(tmp_path: Path) -> None:
    from ase.io import write

    write(tmp_path / "a.extxyz", copper(3), format="extxyz")
    (path,) = resolved(tmp_path, path="a.extxyz")
    assert path.parent == tmp_path / "work"
    data = open_dataset(path)
    assert (len(data), data.labels, data.type_map) == (3, {"energy": 3, "forces": 3}, ("Cu",))
    np.testing.assert_allclose(data[1].labels["forces"], copper(3)[1].arrays["REF_forces"], atol=1e-7)
    before = (path / "dataset.json").stat().st_mtime_ns
    assert resolved(tmp_path, path="a.extxyz") == [path]
    assert (path / "dataset.json").stat().st_mtime_ns == before
    (chosen,) = resolved(tmp_path, path="a.extxyz", index="1:")
    assert chosen != path
    assert len(open_dataset(chosen)) == 2
    write(tmp_path / "a.extxyz", copper(4), format="extxyz")
    (anew,) = resolved(tmp_path, path="a.extxyz")
    assert len(open_dataset(anew)) == 4, "another file, another conversion"


def test_outputs_of_codes_are_converted(shared: Path, tmp_path: Path) -> None:
    outcar = shared / "data/raw_outputs/vasp/poscars/OUTCAR.h2o.md.10"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/OUTCAR").symlink_to(outcar)
    files = DataFiles(path="**/OUTCAR", format="vasp/outcar")
    (path,) = data_paths(files, tmp_path, match_files(tmp_path, files.patterns()), tmp_path / "w", ["O", "H"])
    data = open_dataset(path)
    assert (len(data), data.type_map) == (10, ("O", "H"))
    assert set(data.labels) == {"energy", "forces", "virial"}
    (again,) = data_paths(DataFiles(path="run"), tmp_path, [tmp_path / "run"], tmp_path / "w", None)
    assert len(open_dataset(again)) == 10, "a folder without systems is searched for known files"


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"empty holds no system, expected a folder with type\.raw in or below it"):
        resolved(tmp_path, path="empty")
    with pytest.raises(DataError, match=r"notes\.txt: format cannot be guessed: give `format`"):
        resolved(tmp_path, path="notes.txt")
    with pytest.raises(DataError, match=r"format 'vasp/outcart' is not known, did you mean 'vasp/outcar'"):
        resolved(tmp_path, path="notes.txt", format="vasp/outcart")
    with pytest.raises(ValidationError, match="match chooses systems in folders, HDF5 or LMDB"):
        DataFiles(path="a.extxyz", format="extxyz", match=("x",))
    assert not (tmp_path / "work").exists()


def test_keys_without_options_are_as_before() -> None:
    plain = TrainStage(data=[{"path": "a"}, {"path": "b", "match": ["x"]}], model="dpa3-tiny", steps=1)  # type: ignore[arg-type]
    assert plain.key_options()["data"] == [{"path": "<input>"}, {"path": "<input>", "match": ["x"]}]


def test_a_running_stage_finds_all_its_data(tmp_path: Path) -> None:
    from ase.io import write

    systems(tmp_path / "made")
    write(tmp_path / "a.extxyz", copper(3), format="extxyz")
    stage = TrainStage(data=["convert", {"path": "a.extxyz"}], model="dpa3-tiny", steps=1)  # type: ignore[arg-type]
    artifacts = [Artifact((tmp_path / "made",), "data.0"), Artifact((tmp_path / "a.extxyz",), "data.1")]
    context = Context({"data": artifacts}, tmp_path / "out", tmp_path / "work", type_map=("Cu",), base=tmp_path)
    first, second = paths_of_slot(stage, context, "data")
    assert first == tmp_path / "made"
    assert second.parent == tmp_path / "work/data"
    assert paths_of_slot(stage, context, "valid") == []
    assert len(open_dataset([first, second])) == 5


def test_dpsim_train_takes_extended_xyz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase.io import write

    from dpsim.cli import main as cli

    write(tmp_path / "train.extxyz", copper(4), format="extxyz")
    write_npy(_frames(2), tmp_path / "valid", ["Cu"])
    settings = {
        "type_map": ["Cu"], "data": {"path": "train.extxyz"}, "valid": "valid", "steps": 2, "batch_size": "edges:5000",
        "model": {"descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [60], "neuron": [4, 8]},
                  "fitting": {"neuron": [8]}},
    }  # fmt: skip
    (tmp_path / "input.yaml").write_text(json.dumps(settings))
    command = ["train", str(tmp_path / "input.yaml"), "-o", str(tmp_path / "out"), "--json", "--device", "cpu"]
    assert cli.run(command) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["frames"] == {"train": 4, "valid": 2}
    assert (tmp_path / "out/best.safetensors").is_file()


def _frames(number: int) -> list[Frame]:
    return [
        Frame(a.positions, np.zeros(4, np.int64), a.cell.array, {"energy": np.array(a.info["REF_energy"])})
        for a in copper(number, 5)
    ]
