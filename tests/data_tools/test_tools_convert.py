"""Conversion: the reference outputs of 13 codes, extended XYZ in all its dialects, splits, and refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from pydantic import ValidationError

from data_tools.clean import clean_dataset
from data_tools.convert import Source, convert, read_sources
from data_tools.extxyz import unit_factor
from data_tools.sources import find_files, guess_format
from dpsim.data import Frame, open_dataset
from dpsim.errors import DataError
from dpsim.units import EV_PER_HARTREE, GPA_PER_EV_A3


def frames_of(*sources: Source, **options: Any) -> list[Frame]:
    return read_sources(list(sources), **options)[0]


def test_every_reference_output_gives_what_dpdata_gave(shared: Path) -> None:
    folder = shared / "data/raw_outputs"
    entries = json.loads((folder / "expected_dpdata.json").read_text())["entries"]
    assert len(entries) >= 25
    for name, expected in entries.items():
        source = Source(path=str(folder / name), format=expected["fmt"])
        if "error" in expected:
            with pytest.raises(DataError, match=f"{name} has no complete frame of {expected['fmt']}"):
                frames_of(source)
            continue
        frames = frames_of(source)
        ends = [float(frame.labels["energy"]) for frame in (frames[0], frames[-1])]
        assert (len(frames), frames[0].n_atoms) == (expected["frames"], expected["atoms"]), name
        np.testing.assert_allclose(ends, expected["energy_first_last"], rtol=1e-10, err_msg=name)
        mean = np.mean([np.abs(frame.labels["forces"]).mean() for frame in frames])
        assert mean == pytest.approx(expected["force_abs_mean"], rel=1e-9), name
        assert (frames[0].cell is None) == expected["nopbc"], name
        assert ("virial" in frames[0].labels) == ("virial_first_trace" in expected), name
        if "virial" in frames[0].labels:
            assert np.trace(frames[0].labels["virial"]) == pytest.approx(expected["virial_first_trace"], rel=1e-9), name
            assert frames[0].volume == pytest.approx(expected["cell0_det"]), name


def test_formats_are_told_from_names_and_contents(shared: Path) -> None:
    folder = shared / "data/raw_outputs"
    entries = json.loads((folder / "expected_dpdata.json").read_text())["entries"]
    told, asked = 0, 0
    for name, expected in entries.items():
        source = Source(path=str(folder / name))
        if expected["fmt"].startswith(("gaussian/log", "gaussian/md", "siesta", "fhi_aims")):
            with pytest.raises(DataError, match=f"{expected['fmt']}.*which the file does not tell: give `format`"):
                find_files(source)
            asked += 1
        else:
            assert [file.format for file in find_files(source)] == [expected["fmt"]], name
            told += 1
    assert (told, asked) == (20, 5)


def test_several_codes_and_globs_become_one_data_set(shared: Path, tmp_path: Path) -> None:
    raw = shared / "data/raw_outputs"
    seen: list[tuple[int, int]] = []
    report = convert(
        [
            Source(path=f"{raw}/vasp/**/OUTCAR*10"),
            Source(path=f"{raw}/qe/qe.scf/*.out"),
            Source(path=f"{raw}/abacus"),
            Source(path=f"{raw}/cp2k/cp2k/cp2k_normal_output/cp2k_output"),
            Source(path=f"{raw}/qe/qe.traj/traj6.pos", format="qe/cp/traj"),
            Source(path=str(shared / "data/water/data_3"), index=":5"),
            Source(path=str(shared / "data/3bpa/iso_atoms.xyz")),
        ],
        tmp_path / "out",
        split={"train": 0.8, "valid": 0.1, "test": 0.1},
        seed=3,
        on_progress=lambda done, total, name: seen.append((done, total)),
    )
    assert [source.frames for source in report.sources] == [10, 2, 6, 1, 6, 5, 4]
    assert seen == [(i, 9) for i in range(1, 10)]
    assert report.type_map == ["H", "C", "N", "O", "Al", "Fe"]
    assert report.fields == {"energy": 34, "forces": 30, "virial": 19}
    assert report.parts == {"train": 27, "valid": 4, "test": 3}
    assert report.renamed == {"Fe1": "Fe", "Fe2": "Fe"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "test", "train", "valid"]
    written = [frame for part in ("train", "valid", "test") for frame in open_dataset(tmp_path / "out" / part)]
    whole = open_dataset(tmp_path / "out")
    assert len(written) == len(whole) == 34
    assert {Path(frame.origin).name for frame in whole} >= {
        "OUTCAR.h2o.md.10",
        "01.out",
        "cp2k_output",
        "traj6",
        "data_3",
    }
    card = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (card["format"], card["frames"], card["split"]["seed"]) == ("deepmd/npy/mixed", 34, 3)
    table = report.table().splitlines()
    assert table[0].split() == ["source", "format", "files", "frames", "energy", "forces", "virial"]
    assert "4 (energy)" in table[7]


def test_a_conversion_can_be_repeated_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert([shared / "data/mlearn/Mo/test.extxyz"], tmp_path / name, split={"train": 0.7, "valid": 0.3}, seed=5)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    files.remove(Path("dataset.json"))  # holds the name of the output
    assert len(files) > 8
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def reference_atoms(n: int = 2, **info: Any) -> Atoms:
    rng = np.random.default_rng(n)
    atoms = Atoms("OH2"[: n + 1], positions=rng.uniform(0, 3, (3, 3)), cell=np.diag([4.0, 5.0, 6.0]), pbc=True)
    atoms.info.update(info)
    return atoms


STRESS = np.array([[0.01, 0.004, 0.005], [0.004, 0.02, 0.006], [0.005, 0.006, 0.03]])
VOLUME = 120.0


def test_reference_keys_and_labels_of_calculators_are_both_found(tmp_path: Path) -> None:
    forces = np.arange(9.0).reshape(3, 3)
    first = reference_atoms(REF_energy=-1.5, REF_stress=STRESS.ravel(), source="seed-7")
    first.set_array("REF_forces", forces)
    second = reference_atoms()
    second.calc = SinglePointCalculator(
        second, energy=-2.5, forces=forces + 1, stress=STRESS.ravel()[[0, 4, 8, 5, 2, 1]]
    )
    third = reference_atoms(REF_energy=-3.5)
    write(tmp_path / "a.extxyz", [first, second, third])
    report = convert([tmp_path / "a.extxyz"], tmp_path / "out")
    assert report.sources[0].keys == {
        "energy": {"REF_energy": 2, "energy": 1},
        "forces": {"REF_forces": 1, "forces": 1},
        "virial": {"REF_stress": 1, "stress": 1},
    }
    frames = {float(frame.labels["energy"]): frame for frame in open_dataset(tmp_path / "out")}
    np.testing.assert_allclose(frames[-1.5].labels["virial"], -VOLUME * STRESS, rtol=1e-12)
    np.testing.assert_allclose(frames[-2.5].labels["virial"], -VOLUME * STRESS, rtol=1e-7)
    np.testing.assert_array_equal(frames[-2.5].labels["forces"], forces + 1)
    assert "virial" not in frames[-3.5].labels
    assert "forces" not in frames[-3.5].labels
    assert [frames[energy].origin for energy in (-1.5, -2.5)] == ["seed-7", str(tmp_path / "a.extxyz")]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_units_and_dialects_agree_with_dpdata(shared: Path) -> None:
    import dpdata

    compared = 0
    for path in sorted((shared / "data/raw_outputs/xyz/xyz").glob("*.xyz")):
        if path.name in ("unsupported_unit.xyz", "xyz_unittest.field.xyz"):
            with pytest.raises(DataError, match=path.name):
                frames_of(Source(path=str(path)))
            continue
        systems = dpdata.MultiSystems()
        systems.load_systems_from_file(str(path), fmt="extxyz")
        expected = {round(float(e), 5): (s, k) for s in systems for k, e in enumerate(s.data["energies"])}
        frames = frames_of(Source(path=str(path)))
        assert len(frames) == len(expected), path.name
        for frame in frames:
            system, k = expected[round(float(frame.labels["energy"]), 5)]
            # dpdata's hartree is of another CODATA year: 4e-9 relative
            np.testing.assert_allclose(float(frame.labels["energy"]), system.data["energies"][k], rtol=1e-7)
            sizes = np.sort(np.linalg.norm(frame.labels["forces"], axis=1))
            np.testing.assert_allclose(sizes, np.sort(np.linalg.norm(system.data["forces"][k], axis=1)), rtol=1e-6)
            assert ("virial" in frame.labels) == ("virials" in system.data), path.name
            if "virial" in frame.labels:
                trace = np.trace(system.data["virials"][k])
                assert np.trace(frame.labels["virial"]) == pytest.approx(trace, rel=1e-6), path.name
            assert (frame.cell is None) == bool(system.data.get("nopbc", False)), path.name
            compared += 1
    assert compared > 18


def test_stress_of_six_numbers_has_the_voigt_order(shared: Path) -> None:
    frame = frames_of(Source(path=str(shared / "data/raw_outputs/xyz/xyz/stress_voigt.xyz")))[0]
    expected = np.array([[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])
    np.testing.assert_allclose(frame.labels["virial"], -27 * expected)


@pytest.mark.parametrize(
    ("label", "unit", "factor"),
    [
        ("energy", "hartree", EV_PER_HARTREE),
        ("energy", "kcal/mol", 0.0433641),
        ("forces", "Ry/bohr", 25.7110),
        ("forces", "kcal/mol/angstrom", 0.0433641),
        ("forces", "au", 51.4220),
        ("stress", "GPa", 1 / GPA_PER_EV_A3),
        ("stress", "-1 kbar", -0.1 / GPA_PER_EV_A3),
        ("stress", "hartree/bohr^3", 183.631),
        ("stress", "-0.1 GPa", -0.1 / GPA_PER_EV_A3),
        ("virial", "kJ/mol", 0.01036427),
    ],
)
def test_units(label: str, unit: str, factor: float) -> None:
    assert unit_factor(label, unit) == pytest.approx(factor, rel=1e-5)


def test_declared_units_are_applied(tmp_path: Path) -> None:
    atoms = reference_atoms(my_energy=-1.0, my_stress=STRESS.ravel() * 1000)
    write(tmp_path / "a.extxyz", atoms)
    source = Source(
        path=str(tmp_path / "a.extxyz"),
        keys={"energy": "my_energy", "stress": "my_stress"},
        units={"energy": "hartree", "stress": "-1 kbar"},
    )
    frame = frames_of(source)[0]
    assert float(frame.labels["energy"]) == pytest.approx(-EV_PER_HARTREE)
    np.testing.assert_allclose(frame.labels["virial"], VOLUME * STRESS * 100 / GPA_PER_EV_A3)


def test_two_energies_that_agree_are_one(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", reference_atoms(REF_energy=-1.0, energy=-1.0, total_energy=-1.0))
    assert float(frames_of(Source(path=str(tmp_path / "a.extxyz")))[0].labels["energy"]) == -1.0


def xyz(tmp_path: Path, header: str = "", body: str = "H 0 0 0 0 0 0\nH 0 0 0.8 0 0 0") -> str:
    path = tmp_path / "a.extxyz"
    lattice = "" if "Lattice" in header or "pbc=" in header else 'Lattice="9 0 0 0 9 0 0 0 9"'
    path.write_text(f"2\n{lattice} Properties=species:S:1:pos:R:3:forces:R:3 {header}\n{body}\n")
    return str(path)


BAD_XYZ = [
    ("energy=1 REF_energy=2", {}, r"#0: energy may be energy or REF_energy, which differ: choose with `keys: \{en"),
    ("energy=1 virial=\"1 2 3\"", {}, r"cannot be read as extxyz"),
    ("energy=1", {"keys": {"energy": "E"}}, r"a.extxyz: no frame has 'E', which `keys` names for energy"),
    ("energy=1", {"keys": {"dipole": "E"}}, r"'dipole' is not a label, expected energy, forces, stress, virial"),
    ("energy=1", {"units": {"stress": "GPa"}}, r"no frame has stress, for which `units` is given"),
    ("energy=1", {"units": {"energy": "furlong"}}, r"#0: unit 'furlong' of energy is not known, expected one of eV"),
    ("energy=1", {"units": {"forces": "eV"}}, r"unit 'eV' of forces is not known, expected one of eV/angstrom"),
    ("energy=1 pbc=\"T T F\"", {}, r"#0: pbc is T T F, expected all T or all F: set `periodic`"),
    ("energy=1 pbc=\"F F F\"", {"periodic": True}, r"there is no Lattice but the frame counts as periodic"),
    ("energy=1 pbc=\"F F F\" stress=\"1 0 0 0 1 0 0 0 1\"", {}, r"stress is a stress but the frame has open"),
    ("energy=nan", {}, r"a.extxyz#0: energy is nan, expected a finite number"),
    ("energy=1 Lattice=\"9 0 0 9 0 0 0 0 9\"", {}, r"a.extxyz#0: the box has a volume of 0 Å³ for 2 atoms"),
    ("energy=1", {"index": "5:"}, r"a.extxyz has no frames at index 5:, expected at least one of extxyz"),
    ("energy=1", {"format": "vasp/outcar"}, r"a.extxyz (cannot be read as|has no complete frame of) vasp/outcar"),
    ("energy=1", {"format": "extxzy"}, r"format 'extxzy' is not known, did you mean 'extxyz'\? Known: "),
    ("energy=1", {"format": "vasp/poscar"}, r"format 'vasp/poscar' has structures but no energies or forces"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "options", "sentence"), BAD_XYZ)
def test_extended_xyz_that_is_refused(tmp_path: Path, header: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        convert([Source(path=xyz(tmp_path, header), **options)], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.extxyz"]


def test_periodic_overrides_the_file(tmp_path: Path) -> None:
    path = xyz(tmp_path, 'energy=1 Lattice="9 0 0 0 9 0 0 0 9" pbc="T T F"')
    assert frames_of(Source(path=path, periodic=True))[0].cell is not None
    assert frames_of(Source(path=path, periodic=False))[0].cell is None


def test_keys_on_a_format_without_them_are_refused(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "data/water/data_0")
    for name, value in (("keys", {"energy": "e"}), ("units", {"energy": "eV"}), ("periodic", True)):
        with pytest.raises(DataError, match=f"`{name}` applies to extended XYZ, but this is deepmd/npy"):
            frames_of(Source(path=path, **{name: value}))


def test_an_element_outside_the_type_map_names_file_frame_and_element(shared: Path, tmp_path: Path) -> None:
    xyz_file = shared / "data/3bpa/iso_atoms.xyz"
    with pytest.raises(DataError, match=r"iso_atoms.xyz#\d: has element N, which is not in the type_map \(H C O\)"):
        convert([xyz_file], tmp_path / "out", type_map=["H", "C", "O"])
    outcar = shared / "data/raw_outputs/vasp/poscars/OUTCAR.h2o.md.10"
    with pytest.raises(DataError, match=r"OUTCAR.h2o.md.10#0: has element O, which is not in the type_map \(H\)"):
        convert([outcar], tmp_path / "out", type_map=["H"])
    with pytest.raises(DataError, match=r"data_0.*element O, which is not in the type_map \(H\)"):
        convert([shared / "data/water/data_0"], tmp_path / "out", type_map=["H"])
    with pytest.raises(DataError, match=r"type_map \(H H\) has a symbol twice"):
        convert([outcar], tmp_path / "out", type_map=["H", "H"])
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(shared: Path, tmp_path: Path) -> None:
    sources = [
        Source(path="nowhere/*.x"),
        Source(path=xyz(tmp_path, "energy=nan")),
        Source(path=str(tmp_path / "missing")),
    ]
    with pytest.raises(DataError) as caught:
        convert([*sources, shared / "data/water/data_0"], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 problems:"
    assert "nowhere/*.x matches no file or folder" in lines[1]
    assert "energy is nan" in lines[3]
    assert [path.name for path in tmp_path.iterdir()] == ["a.extxyz"]


def test_unlabelled_and_duplicate_frames(tmp_path: Path) -> None:
    labelled = reference_atoms(REF_energy=1.0)
    write(tmp_path / "a.extxyz", [labelled, reference_atoms(), labelled])
    with pytest.raises(DataError, match=r"a.extxyz#1: has none of energy, forces and virial.*`drop: \[unlabelled\]`"):
        convert([tmp_path / "a.extxyz"], tmp_path / "out")
    report = convert([tmp_path / "a.extxyz"], tmp_path / "out", drop=["unlabelled", "duplicates"])
    assert report.frames == 1
    assert report.sources[0].dropped == {"unlabelled": 1, "duplicates": 1}
    assert report.table().splitlines()[1].endswith("1 unlabelled, 1 duplicates")
    with pytest.raises(DataError, match="drop 'x' is not known, expected one of unlabelled, duplicates"):
        convert([tmp_path / "a.extxyz"], tmp_path / "out2", drop=["x"])  # type: ignore[list-item]
    write(tmp_path / "b.extxyz", reference_atoms())
    with pytest.raises(DataError, match=r"all frames of .*b.extxyz were dropped \(unlabelled\)"):
        convert([tmp_path / "b.extxyz"], tmp_path / "out2", drop=["unlabelled"])


def test_outputs_that_exist(tmp_path: Path) -> None:
    source = xyz(tmp_path, "energy=1")
    (tmp_path / "out").mkdir()
    convert([source], tmp_path / "out")
    with pytest.raises(DataError, match="out exists already: remove it or choose another output folder"):
        convert([source], tmp_path / "out")
    convert([source, source], tmp_path / "out", overwrite=True)
    assert len(open_dataset(tmp_path / "out")) == 2


def test_only_data_sets_are_overwritten_and_never_a_source(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    source = xyz(tmp_path / "raw", "energy=1")
    (tmp_path / "raw/notes.txt").touch()
    for output in (tmp_path / "raw", tmp_path, source, tmp_path / "raw/notes.txt"):
        with pytest.raises(DataError, match=f"{output} is no data set written by dpsim .* nothing else is overwritten"):
            convert([source], output, overwrite=True)
    convert([source], tmp_path / "out")
    inside = xyz(tmp_path / "out", "energy=2")
    os.symlink(tmp_path / "out", tmp_path / "link")
    for given, output in ((tmp_path / "out", "out"), (inside, "out"), (inside, "link"), (tmp_path / "link", "out")):
        with pytest.raises(DataError, match=rf"the output \S*/{output} would replace \S*, which is read"):
            convert([given], tmp_path / output, overwrite=True)
    with pytest.raises(DataError, match=r"the output \S*/out would replace \S*/out/2, which is read: choose another"):
        clean_dataset(tmp_path / "out", tmp_path / "out", ["nan"], overwrite=True)
    assert all(Path(path).is_file() for path in (inside, source, tmp_path / "raw/notes.txt"))
    convert([source, source], tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert len(open_dataset(tmp_path / "out")) == 2


def test_folders_and_globs(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder without files of a known format: name the files with a glob"):
        find_files(Source(path=str(tmp_path)))
    for name in ("r10", "r2"):
        (tmp_path / name).mkdir()
        os.symlink(shared / "data/raw_outputs/vasp/poscars/OUTCAR.h2o.md.10", tmp_path / name / "OUTCAR")
    found = find_files(Source(path=str(tmp_path)))
    assert [Path(file.path).parent.name for file in found] == ["r2", "r10"]
    os.symlink(shared / "data/raw_outputs/vasp/poscars/vasprun.h2o.md.10.xml", tmp_path / "r2/vasprun.xml")
    with pytest.raises(DataError, match=r"r2 holds OUTCAR and vasprun.xml \(vasp/outcar, vasp/xml\), which may be one"):
        find_files(Source(path=str(tmp_path)))
    assert len(find_files(Source(path=str(tmp_path), format="vasp/outcar"))) == 2
    (tmp_path / "notes").write_text("words")
    with pytest.raises(DataError, match=r"notes: format cannot be guessed: give `format`, one of abacus/lcao/md"):
        guess_format(tmp_path / "notes")
    with pytest.raises(DataError, match=r"md matches no file, expected the beginning of names that end in \.pos"):
        find_files(Source(path=str(tmp_path / "md"), format="qe/cp/traj"))


def test_quantum_espresso_without_its_input(shared: Path, tmp_path: Path) -> None:
    os.symlink(shared / "data/raw_outputs/qe/qe.scf/01.out", tmp_path / "run.out")
    with pytest.raises(DataError, match=r"run.out: its input file is missing, expected run.in beside it"):
        frames_of(Source(path=str(tmp_path / "run.out")))


def test_dftbplus_and_hdf5(shared: Path, tmp_path: Path) -> None:
    import dpdata

    frames = frames_of(Source(path=str(shared / "data/raw_outputs/dftbplus/dftbplus")))
    assert len(frames) == 1
    assert set(frames[0].labels) == {"energy", "forces"}
    system = dpdata.LabeledSystem(str(shared / "data/raw_outputs/vasp/poscars/OUTCAR.h2o.md.10"), fmt="vasp/outcar")
    dpdata.MultiSystems(system).to_deepmd_hdf5(str(tmp_path / "a.hdf5"))
    read = frames_of(Source(path=str(tmp_path / "a.hdf5"), index="::2"))
    np.testing.assert_allclose([float(f.labels["energy"]) for f in read], system.data["energies"][::2])
    dpdata.MultiSystems(system).to("deepmd/lmdb", str(tmp_path / "b.lmdb"))
    for source in (tmp_path / "b.lmdb", tmp_path):
        (file,) = find_files(Source(path=str(source), format="deepmd/lmdb"))
        assert file.format == "deepmd/lmdb"
        again = frames_of(Source(path=str(source), format="deepmd/lmdb", index="::2"))
        assert [float(f.labels["energy"]) for f in again] == [float(f.labels["energy"]) for f in read]


@pytest.mark.parametrize(
    ("index", "expected"), [(None, [0, 1, 2, 3]), (-1, [3]), ("1", [1]), ("::2", [0, 2]), ("-2:", [2, 3])]
)
def test_index_selects_as_in_ase(tmp_path: Path, index: Any, expected: list[int]) -> None:
    write(tmp_path / "a.extxyz", [reference_atoms(REF_energy=float(k)) for k in range(4)])
    frames = frames_of(Source(path=str(tmp_path / "a.extxyz"), index=index))
    assert [int(frame.labels["energy"]) for frame in frames] == expected
    convert([tmp_path / "a.extxyz"], tmp_path / "npy")
    own = frames_of(Source(path=str(tmp_path / "npy"), index=index))
    assert [int(frame.labels["energy"]) for frame in own] == expected


def test_source_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="'a:b' is not an index: write a number or start:stop:step"):
        Source(path="x", index="a:b")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Source(path="x", fmt="vasp/outcar")  # type: ignore[call-arg]


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sources were given, expected at least one file, folder or glob"):
        convert([], tmp_path / "out")


def test_the_plain_layout_has_a_folder_for_each_formula(shared: Path, tmp_path: Path) -> None:
    convert([shared / "data/3bpa/iso_atoms.xyz"], tmp_path / "out", layout="npy")
    systems = open_dataset(tmp_path / "out").systems
    assert [(system.path.name, system.format) for system in systems] == [(e, "deepmd/npy") for e in "CHNO"]
    with pytest.raises(DataError, match="layout 'raw' is not known, expected one of mixed, npy, lmdb"):
        convert([shared / "data/3bpa/iso_atoms.xyz"], tmp_path / "x", layout="raw")  # type: ignore[arg-type]
