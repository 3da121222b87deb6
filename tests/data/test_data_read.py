"""Reading of system folders: layouts, odd files, and every sentence of refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpsim.data import Frame, System, open_dataset, write_mixed, write_npy
from dpsim.errors import DataError


def system_folder(path: Path, n_frames: int = 3, types: tuple[int, ...] = (0, 1, 1), periodic: bool = True) -> Path:
    """Write a small water-like system by hand, not with the writer under test."""
    rng = np.random.default_rng(1)
    n = len(types)
    (path / "set.000").mkdir(parents=True)
    (path / "type.raw").write_text("\n".join(map(str, types)) + "\n")
    (path / "type_map.raw").write_text("O\nH\n")
    np.save(path / "set.000/coord.npy", rng.normal(size=(n_frames, 3 * n)))
    if periodic:
        np.save(path / "set.000/box.npy", np.tile(np.eye(3).ravel() * 9.0, (n_frames, 1)))
    else:
        (path / "nopbc").touch()
    np.save(path / "set.000/energy.npy", rng.normal(size=n_frames))
    np.save(path / "set.000/force.npy", rng.normal(size=(n_frames, 3 * n)))
    return path


def put(path: Path, name: str, array: object) -> None:
    np.save(path / "set.000" / f"{name}.npy", np.asarray(array))


def load(path: Path, name: str) -> np.ndarray:
    return np.load(path / "set.000" / f"{name}.npy")


def test_values_reach_the_frame_with_shape_and_dtype(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "water")
    put(path, "virial", np.arange(27.0).reshape(3, 9))
    put(path, "fparam", np.arange(6.0).reshape(3, 2))
    frame = open_dataset(path)[1]
    assert frame.positions.dtype == np.float64
    np.testing.assert_array_equal(frame.positions, load(path, "coord")[1].reshape(3, 3))
    np.testing.assert_array_equal(frame.cell, np.eye(3) * 9)
    assert frame.labels["energy"].shape == () == (load(path, "energy")[1] * 0).shape
    np.testing.assert_array_equal(frame.labels["forces"], load(path, "force")[1].reshape(3, 3))
    np.testing.assert_array_equal(frame.labels["virial"], [[9, 10, 11], [12, 13, 14], [15, 16, 17]])
    np.testing.assert_array_equal(frame.labels["fparam"], [2, 3])
    assert frame.source == "water/set.000#1"


def test_float32_files_are_read_as_float64(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    for name in ("coord", "box", "energy", "force"):
        put(path, name, load(path, name).astype(np.float32))
    frame = open_dataset(path)[0]
    assert {frame.positions.dtype, frame.cell.dtype, frame.labels["forces"].dtype} == {np.dtype(np.float64)}


def test_one_dimensional_coordinates_are_one_frame(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s", n_frames=1)
    for name in ("coord", "box", "force"):
        put(path, name, load(path, name)[0])
    assert len(open_dataset(path)) == 1
    assert open_dataset(path)[0].labels["forces"].shape == (3, 3)


def test_sets_are_joined_and_may_lack_labels(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    (path / "set.001").mkdir()
    for name in ("coord", "box", "energy"):
        np.save(path / "set.001" / f"{name}.npy", load(path, name)[:2] + 1)
    dataset = open_dataset(path)
    assert len(dataset) == 5
    assert dataset.labels == {"energy": 5, "forces": 3}
    assert "forces" in dataset[2].labels
    assert "forces" not in dataset[3].labels
    assert dataset[3].source == "s/set.001#0"
    assert dataset.systems[0].has("forces")
    assert not dataset.systems[0].has("virial")


def test_open_boundaries_have_no_cell_even_with_a_box_file(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    (path / "nopbc").touch()
    assert open_dataset(path)[0].cell is None


def test_mixed_types_and_placeholders(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s", types=(0, 0, 0))
    put(path, "real_atom_types", [[0, 1, 1], [1, -1, 0], [-1, -1, 1]])
    dataset = open_dataset(path, ["H", "C", "O"])
    assert dataset.systems[0].format == "deepmd/npy/mixed"
    assert [dataset[i].types.tolist() for i in range(3)] == [[2, 0, 0], [0, 2], [0]]
    np.testing.assert_array_equal(dataset[1].positions, load(path, "coord")[1].reshape(3, 3)[[0, 2]])
    np.testing.assert_array_equal(dataset[1].labels["forces"], load(path, "force")[1].reshape(3, 3)[[0, 2]])
    assert dataset.systems[0].formula(1) == "HO"


def test_type_map_is_joined_in_the_order_met(tmp_path: Path) -> None:
    system_folder(tmp_path / "a")
    (system_folder(tmp_path / "b") / "type_map.raw").write_text("H C")
    dataset = open_dataset(tmp_path)
    assert dataset.type_map == ("O", "H", "C")
    assert [s.name for s in dataset.systems] == [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]
    assert dataset[0].types.tolist() == [0, 1, 1]
    assert dataset[3].types.tolist() == [1, 2, 2]


def test_natural_order_hidden_folders_and_systems_reached_twice(tmp_path: Path) -> None:
    for name in ("s10", "s9", ".s8.part"):
        system_folder(tmp_path / name)
    dataset = open_dataset([tmp_path, tmp_path / "s9"])
    assert [s.path.name for s in dataset.systems] == ["s9", "s10"]
    assert [s.path.name for s in open_dataset(tmp_path, patterns=["s1*"]).systems] == ["s10"]


def test_arrays_larger_than_the_limit_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = system_folder(tmp_path / "s", n_frames=50)
    expected = load(path, "coord")
    monkeypatch.setattr("dpsim.data.arrays.SMALL", 64)
    system = System(path)
    assert isinstance(system._sets[0].coord.rows(50).base, np.memmap)
    np.testing.assert_array_equal(system.frame(49).positions.ravel(), expected[49])


def test_no_more_files_stay_open_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.data import arrays

    monkeypatch.setattr(arrays, "SMALL", 0)
    monkeypatch.setattr(arrays, "KEPT_MAPS", 4)
    for i in range(5):
        system_folder(tmp_path / f"s{i}")
    dataset = open_dataset(tmp_path)
    assert sum(1 for _ in dataset) == 15
    assert len(arrays.cache._maps) <= 4


def test_columns_first_arrays_give_the_same_values(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    expected = load(path, "coord")
    put(path, "coord", np.asfortranarray(expected))
    np.testing.assert_array_equal(open_dataset(path)[2].positions.ravel(), expected[2])


def test_a_file_replaced_while_the_process_lives_is_read_anew(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    before = open_dataset(path)[0].positions
    put(path, "coord", load(path, "coord") + 1)
    np.testing.assert_allclose(open_dataset(path)[0].positions, before + 1)


def break_missing_box(path: Path) -> None:
    (path / "set.000/box.npy").unlink()


def break_truncated(path: Path) -> None:
    file = path / "set.000/force.npy"
    file.write_bytes(file.read_bytes()[:-8])


FORCE = r"s/set.000/force.npy has shape \(3, 6\), expected \(3, 9\): 3 atoms in type.raw, 3 components each"
BROKEN = [
    (lambda p: (p / "type.raw").write_text("0 1 x"), r"s/type.raw: entry 2 is 'x', expected integers"),
    (lambda p: (p / "type.raw").write_text(""), r"s/type.raw is empty, expected the type of each atom"),
    (lambda p: (p / "type_map.raw").write_text("O O"), r"type_map.raw has O twice, expected every symbol once"),
    (lambda p: (p / "type.raw").write_text("0 1 2"), r"frame 0 has type 2, expected 0 to 1: .* 2 names \(O H\)"),
    (lambda p: (p / "type.raw").write_text("0 1 -1"), r"frame 0 has type -1, expected 0 to 1"),
    (lambda p: (p / "type_map.raw").unlink(), r"s has no type_map.raw, so the elements of type.raw are not known"),
    (lambda p: put(p, "force", np.zeros((3, 6))), FORCE),
    (lambda p: put(p, "force", np.zeros((9, 3))), r"force.npy has shape \(9, 3\), expected \(3, 9\)"),
    (lambda p: put(p, "energy", np.zeros(4)), r"shape \(4,\), expected \(3, 1\): 1 component for each frame"),
    (lambda p: put(p, "fparam", np.zeros(4)), r"expected \(3, 1\*n\): any number of components for each frame"),
    (lambda p: put(p, "coord", np.zeros((3, 8))), r"coord.npy has shape \(3, 8\), expected \(3, 9\): 3 atoms"),
    (lambda p: put(p, "box", np.zeros((3, 6))), r"shape \(3, 6\), expected \(3, 9\): 9 numbers for each frame"),
    (lambda p: put(p, "energy", np.array(["a"] * 3)), r"energy.npy holds values of type <U1, expected real numbers"),
    (break_missing_box, r"set.000/box.npy is missing, expected cells; for open boundaries put an empty file `nopbc`"),
    (break_truncated, r"force.npy ends after \d+ of \d+ bytes: it was not written completely"),
    (lambda p: (p / "set.000/force.npy").write_bytes(b"rubbish"), r"force.npy cannot be read as a numpy array"),
    (lambda p: (p / "dataset.json").write_text('{"origins": [["a", 2]]}'), r"tells of 2 frames, but the sets hold 3"),
    (
        lambda p: (p / "dataset.json").write_text('{"format": "deepmd/npy/mixed"}'),
        r"names the format deepmd/npy/mixed, but the arrays are deepmd/npy \(real_atom_types.npy absent\)",
    ),
    (lambda p: (p / "dataset.json").write_text("[]"), r"dataset.json holds a list, expected a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "sentence"), BROKEN)
def test_a_broken_system_is_refused_when_it_is_opened(tmp_path: Path, damage: object, sentence: str) -> None:
    path = system_folder(tmp_path / "s")
    damage(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=sentence):
        open_dataset(path)


def with_value(name: str, value: float, frame: int = 1) -> object:
    def damage(path: Path) -> None:
        array = load(path, name)
        array.reshape(len(array), -1)[frame, 0] = value
        put(path, name, array)

    return damage


FRAMES = [
    (with_value("coord", np.nan), r"s/set.000#1: coordinates of atom 0 is nan, expected a finite number"),
    (with_value("energy", np.inf), r"s/set.000#1: energy is inf, expected a finite number"),
    (with_value("force", np.nan), r"s/set.000#1: forces of atom 0 is nan"),
    (with_value("box", np.nan), r"s/set.000#1: box is nan"),
    (lambda p: put(p, "box", np.zeros((3, 9))), r"#1: the box has a volume of 0 Å³ for 3 atoms"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "sentence"), FRAMES)
def test_a_broken_frame_is_refused_when_it_is_read(tmp_path: Path, damage: object, sentence: str) -> None:
    path = system_folder(tmp_path / "s")
    damage(path)  # type: ignore[operator]
    dataset = open_dataset(path)
    with pytest.raises(DataError, match=sentence):
        dataset[1]
    assert isinstance(dataset.systems[0].frame(1, check=False), Frame)


def test_an_element_outside_the_type_map_names_file_frame_and_element(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    with pytest.raises(
        DataError, match=r"s/type.raw: frame 0 of set.000 has element O, which is not in the type_map \(H C\)"
    ):
        open_dataset(path, ["H", "C"])
    put(path, "real_atom_types", [[1, 1, 1], [1, 1, 1], [1, 0, 1]])
    sentence = r"set.000/real_atom_types.npy: frame 2 of set.000 has element O, which is not in the type_map \(H C\)"
    with pytest.raises(DataError, match=sentence):
        open_dataset(path, ["H", "C"])


def test_an_element_that_only_the_map_names_is_no_matter(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    (path / "type_map.raw").write_text("O H Xe")
    assert len(open_dataset(path, ["H", "O"])) == 3


def test_without_a_map_of_its_own_the_one_asked_for_counts(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    (path / "type_map.raw").unlink()
    assert open_dataset(path, ["H", "O"])[0].types.tolist() == [0, 1, 1]


def test_sets_of_two_kinds_and_of_two_widths_are_refused(tmp_path: Path) -> None:
    path = system_folder(tmp_path / "s")
    (path / "set.001").mkdir()
    for name in ("coord", "box"):
        np.save(path / "set.001" / f"{name}.npy", load(path, name))
    put(path, "fparam", np.zeros((3, 2)))
    np.save(path / "set.001/fparam.npy", np.zeros((3, 1)))
    with pytest.raises(DataError, match=r"fparam.npy has 2 values a frame but .*set.001/fparam.npy has 1"):
        open_dataset(path)
    (path / "set.001/fparam.npy").unlink()
    put(path, "real_atom_types", np.zeros((3, 3), int))
    with pytest.raises(DataError, match=r"set.001 has no real_atom_types.npy but .*set.000 has"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, r"d does not exist, expected a folder with a system"),
        (lambda p: p.mkdir(), r"d holds no system, expected a folder with type.raw"),
        (lambda p: p.write_text(""), r"d is a file, expected a system folder"),
    ],
)
def test_paths_without_systems(tmp_path: Path, make: object, sentence: str) -> None:
    make(tmp_path / "d")  # type: ignore[operator]
    with pytest.raises(DataError, match=sentence):
        open_dataset(tmp_path / "d")
    with pytest.raises(DataError, match="no data were given"):
        open_dataset([])


def test_text_format_and_missing_sets_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/type.raw").write_text("0")
    with pytest.raises(DataError, match=r"has no set.\* folder, expected at least set.000"):
        open_dataset(tmp_path, ["H"])
    (tmp_path / "s/coord.raw").touch()
    with pytest.raises(DataError, match=r"text format deepmd/raw, run `dpsim data convert`"):
        open_dataset(tmp_path, ["H"])


def test_indices_outside_are_index_errors(tmp_path: Path) -> None:
    dataset = open_dataset(system_folder(tmp_path / "s"))
    assert dataset[-1].source == "s/set.000#2"
    with pytest.raises(IndexError, match="frame 3 of a data set with 3"):
        dataset[3]
    with pytest.raises(IndexError, match="frame -1"):
        dataset.systems[0].frame(-1)


def test_published_water_opens_with_all_400_frames(shared: Path) -> None:
    dataset = open_dataset(shared / "data/water")
    assert (len(dataset), dataset.type_map, dataset.labels) == (400, ("O", "H"), {"energy": 400, "forces": 400})
    assert {system.formula(0) for system in dataset.systems} == {"O64H128"}


def test_published_examples_open(shared: Path) -> None:
    folder = shared / "data/deepmd_examples"
    fparam = open_dataset(folder / "fparam/data", ["H"])
    assert len(fparam) == 600
    assert fparam[0].labels["fparam"].shape == (1,)
    assert fparam[0].labels["aparam"].shape == (54, 1)
    spin = open_dataset(folder / "spin/data_reformat")
    assert spin[0].labels["spin"].shape == spin[0].labels["magnetic_forces"].shape == (32, 3)
    assert open_dataset(folder / "water_dplr")[0].labels["virial"].shape == (3, 3)
    wannier = open_dataset(folder / "water_dplr")[0]
    assert wannier.labels["atomic_dipole"].shape == (384, 3)
    np.testing.assert_array_equal(wannier.labels["atomic_dipole"].any(axis=1), wannier.types == 0)
    tensors = open_dataset(folder / "water_tensor" / "polar")
    assert tensors.labels == {"polarizability": 160, "atomic_polarizability": 120}


def small_system(folder: Path, types: list[int], **arrays: np.ndarray) -> Path:
    """Two frames of atoms in a row, with the arrays named."""
    write_npy([Frame(np.arange(3.0 * len(types)).reshape(-1, 3), np.array(types), None)] * 2, folder, ["O", "H", "C"])
    (system,) = (path.parent for path in folder.rglob("type.raw"))
    for name, values in arrays.items():
        np.save(system / "set.000" / f"{name}.npy", values)
    return folder


@pytest.mark.parametrize("name", ["atom_dipole", "atomic_dipole"])
def test_tensors_of_selected_types(tmp_path: Path, name: str) -> None:
    """Two of five atoms: they can only be those of type 1."""
    values = np.arange(12.0).reshape(2, 6) + 1
    data = open_dataset(small_system(tmp_path / "d", [0, 1, 0, 1, 0], **{name: values}))
    found = data[1].labels["atomic_dipole"]
    np.testing.assert_array_equal(found[[1, 3]], values[1].reshape(2, 3))
    assert not found[[0, 2, 4]].any()


def test_selected_types_must_be_certain(tmp_path: Path) -> None:
    folder = small_system(tmp_path / "d", [0, 1, 2, 2], atomic_dipole=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"atomic_dipole\.npy has shape \(2, 3\), expected \(2, 12\)"):
        open_dataset(folder)


def test_both_names_of_a_field_are_too_many(tmp_path: Path) -> None:
    zeros = np.zeros((2, 2))
    folder = small_system(tmp_path / "d", [0, 1], atom_ener=zeros, atomic_ener=zeros)
    with pytest.raises(DataError, match=r"has atom_ener\.npy and atomic_ener\.npy, which mean the same: remove one"):
        open_dataset(folder)


def test_a_property_lies_in_the_file_of_its_name(tmp_path: Path) -> None:
    folder = small_system(tmp_path / "d", [0, 1], gap=np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert open_dataset(folder, property_name="gap")[1].labels["property"].tolist() == [3.0, 4.0]
    assert "property" not in open_dataset(folder)[1].labels


def test_placeholders_do_not_survive_writing(tmp_path: Path) -> None:
    frame = Frame(np.arange(9.0).reshape(3, 3), np.array([1, -1, 0]), None, {"forces": np.arange(9.0).reshape(3, 3)})
    write_mixed([frame], tmp_path / "out", ["H", "O"])
    read = open_dataset(tmp_path / "out")[0]
    assert read.types.tolist() == [1, 0]
    np.testing.assert_array_equal(read.labels["forces"], [[0, 1, 2], [6, 7, 8]])
