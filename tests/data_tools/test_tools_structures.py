"""Structures: prototypes, files, packed molecules, and what each refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data.vdw_alvarez import vdw_radii
from ase.io import write
from ase.neighborlist import neighbor_list
from pydantic import TypeAdapter, ValidationError

from data_tools.lammps_data import read_lammps_data
from data_tools.structures import StructureConfig, build_structures
from dpsim.errors import DataError

CONFIG: TypeAdapter[Any] = TypeAdapter(StructureConfig)


def build(seed: int = 0, **keys: Any) -> list[Atoms]:
    return build_structures(CONFIG.validate_python(keys), seed)


def test_the_example_of_the_workflow_language() -> None:
    structures = build(
        7, prototype="fcc", element="Cu", supercell=[2, 2, 2], rattle="0.08 angstrom", strain="4 %", count=60
    )
    assert len(structures) == 60
    assert {len(atoms) for atoms in structures} == {32}
    assert all(atoms.info["source"] == "fcc-Cu-2x2x2" for atoms in structures)
    ideal = np.eye(3) * 3.61 * 2
    strains = np.array([np.linalg.solve(ideal, np.asarray(atoms.cell)) - np.eye(3) for atoms in structures])
    assert 0.03 < np.abs(strains[:, [0, 1, 2], [0, 1, 2]]).max() <= 0.04
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1), atol=1e-12)
    perfect = build(prototype="fcc", element="Cu", supercell=[2, 2, 2])[0]
    moves = [atoms.positions - perfect.get_scaled_positions() @ np.asarray(atoms.cell) for atoms in structures]
    assert np.std(moves) == pytest.approx(0.08, rel=0.03)


def test_equal_seeds_give_equal_structures() -> None:
    keys = {"prototype": "bcc", "element": "Mo", "supercell": [2, 2, 2], "rattle": 0.1, "vacancies": 2, "count": 3}
    first, again, other = build(1, **keys), build(1, **keys), build(2, **keys)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].positions, other[0].positions)
    assert {len(atoms) for atoms in first} == {14}


@pytest.mark.parametrize(
    ("prototype", "element", "a", "atoms", "nearest"),
    [
        ("fcc", "Cu", None, 4, 3.61 / 2**0.5),
        ("bcc", "Mo", None, 2, 3.15 * 3**0.5 / 2),
        ("diamond", "Si", None, 8, 5.43 * 3**0.5 / 4),
        ("sc", "Po", None, 1, 3.35),
        ("hcp", "Mg", None, 2, 3.21),
        ("bcc", "Cu", None, 2, (3.61**3 / 2) ** (1 / 3) * 3**0.5 / 2),
        ("rocksalt", ["Na", "Cl"], "5.64 angstrom", 8, 2.82),
    ],
)
def test_prototypes(prototype: str, element: Any, a: Any, atoms: int, nearest: float) -> None:
    built = build(prototype=prototype, element=element, a=a)[0]
    assert len(built) == atoms
    assert neighbor_list("d", built, 4.0).min() == pytest.approx(nearest, rel=1e-3)


def contacts_of(box: Atoms, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and least distances (0.8 of the radii) of pairs of atoms of different molecules."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    i, j, shift, d = neighbor_list("ijSd", box, 4.0)
    foreign = (owner[i] != owner[j]) | shift.any(axis=1)
    radii = vdw_radii[box.numbers]
    return d[foreign], 0.8 * (radii[i] + radii[j])[foreign]


@pytest.mark.parametrize("seed", [0, 1])
def test_molecules_are_packed_without_overlap_at_the_density(seed: int) -> None:
    box = build(seed, molecules={"H2O": 12, "CH3OH": 2}, density="0.95 g/cm3", min_distance="1.7 angstrom")[0]
    assert box.pbc.all()
    assert box.get_masses().sum() * 1.66053906892 / box.get_volume() == pytest.approx(0.95, rel=1e-6)
    distances, least = contacts_of(box, [3] * 12 + [6] * 2)
    assert distances.min() >= 1.7
    assert (distances - least).min() >= 0
    water = molecule("H2O").get_all_distances()
    for k in range(12):  # rigid, and handed as it was
        np.testing.assert_allclose(box[3 * k : 3 * k + 3].get_all_distances(), water, atol=1e-8)


def test_orientations_and_packings_differ_and_repeat() -> None:
    keys = {"molecules": {"H2O": 6}, "density": "0.9 g/cm3", "count": 2}
    first, again = build(4, **keys), build(4, **keys)
    assert np.array_equal(first[1].positions, again[1].positions)
    assert [atoms.info["source"] for atoms in first] == ["6H2O#0", "6H2O#1"]
    bonds = np.array([b.positions[1::3] - b.positions[0::3] for b in first]).reshape(-1, 3)
    assert np.abs(bonds.mean(axis=0)).max() < 0.6 * np.linalg.norm(bonds[0])


def test_impossible_packings_and_unknown_molecules() -> None:
    with pytest.raises(
        DataError, match=r"8 H2O at 3 g/cm3 \(box of 4.30 Å\) cannot be packed.*lower density, min_distance"
    ):
        build(molecules={"H2O": 8}, density="3 g/cm3")
    with pytest.raises(DataError, match="molecule 'H2X' is neither a file nor known to ASE"):
        build(molecules={"H2X": 1}, density="1 g/cm3")


def test_files_are_sampled_and_stripped(tmp_path: Path) -> None:
    from ase.calculators.emt import EMT

    images = []
    for k in range(6):
        atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.0 + 0.1 * k]], cell=[8, 8, 8], pbc=True)
        atoms.calc = EMT()
        atoms.get_forces()
        images.append(atoms)
    write(tmp_path / "a.xyz", images[:3], format="extxyz")
    write(tmp_path / "b.xyz", images[3:], format="extxyz")
    found = build(3, path=str(tmp_path / "*.xyz"), sample=4)
    assert len(found) == 4
    assert len({atoms.info["source"] for atoms in found}) == 4
    assert all(atoms.calc is None and "forces" not in atoms.arrays for atoms in found)
    assert len(build(path=str(tmp_path / "a.xyz"), index="-1")) == 1
    copies = build(path=str(tmp_path / "a.xyz"), rattle=0.1, count=3)
    assert [atoms.info["source"][-2:] for atoms in copies] == ["#0"] * 3 + ["#1"] * 3 + ["#2"] * 3
    with pytest.raises(DataError, match=r"sample is 9, but .* holds 3 structures"):
        build(path=str(tmp_path / "a.xyz"), sample=9)
    with pytest.raises(DataError, match="matches no file, expected structures"):
        build(path=str(tmp_path / "c*.xyz"))
    (tmp_path / "c.xyz").write_text("words")
    with pytest.raises(DataError, match=r"c\.xyz cannot be read: "):
        build(path=str(tmp_path / "c.xyz"))


LABELLED = """a data file

3 atoms
2 atom types

0 5 xlo xhi
0 6 ylo yhi
0 7 zlo zhi

Atom Type Labels

1 H
2 O

Masses

H 1.008
2 15.999

Atoms # atomic

1 O 0.1 0 0
3 1 0 0.9 0
2 H 0.9 0 0

Velocities

1 0 0 0
2 1.5 0 0
3 0 0 0
"""


def test_what_is_part_of_the_state_of_a_file_is_kept(tmp_path: Path) -> None:
    atoms = molecule("CH3OH")
    rng = np.random.default_rng(0)
    atoms.set_initial_charges(rng.normal(size=6))
    atoms.set_initial_magnetic_moments(rng.normal(size=(6, 3)))
    atoms.set_velocities(rng.normal(size=(6, 3)))
    atoms.set_array("spin", rng.normal(size=(6, 3)))
    atoms.set_array("REF_forces", rng.normal(size=(6, 3)))
    write(tmp_path / "a.extxyz", atoms)
    (read,) = build(path=str(tmp_path / "a.extxyz"), rattle=0.01)
    state = {"initial_charges", "initial_magmoms", "spin", "momenta"}
    assert read.arrays.keys() == {"numbers", "positions", *state}
    for name in state:
        np.testing.assert_allclose(read.arrays[name], atoms.arrays[name], atol=1e-7)
    fewer = build(path=str(tmp_path / "a.extxyz"), vacancies=2)[0]
    assert {len(array) for array in fewer.arrays.values()} == {4}


def test_lammps_data_files_take_their_elements_from_type_labels(tmp_path: Path) -> None:
    (tmp_path / "l.data").write_text(
        LABELLED.replace("3 1 0 0.9 0 0 0 0", "3 1 0 0.9 0").replace("0.9 0 0 0 0 1", "0.9 0 0")
    )
    atoms = build(path=str(tmp_path / "l.data"))[0]
    assert str(atoms.symbols) == "OH2"
    np.testing.assert_allclose(atoms.positions, [[0.1, 0, 0], [0.9, 0, 0], [0, 0.9, 0]])
    np.testing.assert_allclose(atoms.cell.lengths(), [5, 6, 7])
    kept = read_lammps_data(tmp_path / "l.data")
    assert kept.get_velocities()[1, 0] == pytest.approx(1.5 / 98.22694788)  # Å/ps
    assert str(build(path=str(tmp_path / "l.data"), types=["F", "Cl"])[0].symbols) == "ClF2"
    molecules = (
        LABELLED.replace("# atomic", "# molecular").replace("1 O 0.1", "1 7 O 0.1").replace("2 H 0.9", "2 7 H 0.9")
    )
    (tmp_path / "m.data").write_text(molecules.replace("3 1 0 0.9", "3 7 1 0 0.9"))
    assert str(build(path=str(tmp_path / "m.data"))[0].symbols) == "OH2"
    (tmp_path / "w.data").write_text(LABELLED.replace(" O", " OW"))
    with pytest.raises(DataError, match="the type label 'OW' is no element: give types"):
        build(path=str(tmp_path / "w.data"))


def test_lammps_data_files_take_their_elements_from_types(shared: Path) -> None:
    atoms = build(path=str(shared / "data/water/water.lmp"), types=["O", "H"])[0]
    assert (len(atoms), str(atoms.symbols[:1]), atoms.pbc.all()) == (192, "O", True)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"element": "Cu"}, "structures need exactly one of the keys prototype, path, molecules"),
        ({"prototype": "fcc", "path": "x"}, "structures need exactly one of the keys prototype, path, molecules"),
        ({"prototype": "fcc", "element": "Cx"}, "Cx is no element"),
        ({"prototype": "fcc", "element": ["Na", "Cl"]}, r"fcc takes 1 element\(s\), found 2"),
        ({"prototype": "rocksalt", "element": ["Na", "Cl"]}, "rocksalt needs the lattice constant a"),
        ({"prototype": "fcc", "element": "Cu", "c": 5}, "c applies to hcp, not to fcc"),
        ({"prototype": "fcc", "element": "Cu", "supercell": [0, 1, 1]}, "has a repetition below one"),
        ({"prototype": "fcc", "element": "Cu", "count": 2}, "all copies would be equal: give rattle, strain"),
        ({"prototype": "fcc", "element": "Cu", "rattle": "1 eV"}, "unit 'eV' in '1 eV' is not a unit of length"),
        ({"molecules": {"H2O": 0}, "density": 1}, "greater than or equal to 1"),
        (
            {"prototype": "fcc", "element": "Cu", "sampling": {"md": {"temperature": 300, "steps": 5, "every": 10}}},
            r"steps \(5\) is less than every \(10\)",
        ),
    ],
)
def test_settings_that_are_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        CONFIG.validate_python(keys)


def test_structures_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match="from which 4 vacancies cannot be made"):
        build(prototype="fcc", element="Cu", vacancies=4)
    with pytest.raises(DataError, match="the lattice constant of N is not known: give a"):
        build(prototype="fcc", element="N")


def test_sampling_travels_with_the_structures() -> None:
    sampling = {"md": {"temperature": "300 K", "steps": 20, "timestep": "2 fs"}}
    atoms = build(1, prototype="fcc", element="Cu", count=2, sampling=sampling)
    settings = [one.info["sampling"] for one in atoms]
    assert settings[0]["md"]["timestep"] == 0.002
    assert settings[0]["seed"] != settings[1]["seed"]


def test_schema_names_all_three_ways() -> None:
    text = str(CONFIG.json_schema())
    assert all(name in text for name in ("PrototypeConfig", "FileConfig", "MoleculesConfig", "rattle"))


def test_a_slab_has_vacuum_and_the_planes_of_its_indices() -> None:
    slab, *_ = build(prototype="fcc", element="Cu", surface={"miller": [1, 1, 1], "layers": 3, "vacuum": 12.0})
    planes = np.unique(slab.positions[:, 2].round(3))
    np.testing.assert_allclose(np.diff(planes), 3.61 / 3**0.5, atol=1e-2)
    assert (len(planes), len(slab), slab.pbc.all()) == (3, 12, True)
    assert slab.cell[2, 2] - np.ptp(slab.positions[:, 2]) == pytest.approx(12.0, abs=1e-6)
    nearest = neighbor_list("d", slab, 3.0)
    np.testing.assert_allclose(nearest, 3.61 / 2**0.5, atol=1e-6)
    wide = build(
        prototype="rocksalt", element=["Na", "Cl"], a=5.64, surface={"miller": [1, 0, 0], "layers": 2},
        supercell=[2, 1, 1], vacancies=1, rattle=0.05, count=2,
    )  # fmt: skip
    assert [len(atoms) for atoms in wide] == [31, 31]
    assert wide[0].info == {"source": "rocksalt-NaCl-100-2x1x1", "config_type": "surface"}


def test_a_cluster_is_a_ball_of_the_crystal() -> None:
    ball = build(prototype="fcc", element="Cu", cluster="4 angstrom")[0]
    assert (len(ball), ball.pbc.any(), ball.info["config_type"]) == (19, False, "cluster")  # 1 + 12 + 6 neighbours
    assert np.linalg.norm(ball.positions, axis=1).max() < 4.0
    salt = build(prototype="rocksalt", element=["Na", "Cl"], a=5.64, cluster=3.0)[0]
    assert salt.get_chemical_formula() == "Cl6Na"


def test_molecules_pairs_and_atoms_by_themselves() -> None:
    water = build(molecule="H2O", rattle=0.02, count=3)
    assert ([len(atoms) for atoms in water], water[0].pbc.any(), water[0].cell.rank) == ([3, 3, 3], False, 0)
    boxed = build(molecule="CH3OH", box="12 angstrom")[0]
    assert boxed.pbc.all()
    np.testing.assert_allclose(boxed.positions.mean(axis=0), 6.0, atol=1.0)
    pairs = build(dimer=["Cu", "O"], distance=["1.5 angstrom", 3], count=4)
    assert [pair.get_distance(0, 1) for pair in pairs] == pytest.approx([1.5, 2.0, 2.5, 3.0])
    assert len({pair.info["source"] for pair in pairs}) == 4
    atoms = build(atom=["Cu", "O"], box=15.0)
    assert [one.get_chemical_symbols() for one in atoms] == [["Cu"], ["O"]]
    assert {one.info["config_type"] for one in atoms} == {"IsolatedAtom"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"surface": {"miller": [0, 0, 0]}}, "is no plane"),
        ({"surface": {"miller": [1, 1, 1]}, "supercell": [2, 2, 2]}, "its depth is surface.layers"),
        ({"surface": {"miller": [1, 1, 1]}, "cluster": 4.0}, "exclude each other"),
        ({"cluster": 4.0, "supercell": [2, 2, 2]}, "supercell has no effect on a cluster"),
        ({"dimer": ["Cu", "Q"], "distance": [1, 2]}, "Q is no element"),
        ({"dimer": ["Cu", "O"], "distance": [2, 1]}, "expected it to rise"),
        ({"dimer": ["Cu", "O"], "distance": [1, 2], "strain": 0.1}, "no meaning for two atoms"),
        ({"dimer": ["Cu", "O"], "distance": [1, 2], "box": 2.0}, "is not larger than the longest distance"),
        ({"atom": "Cu", "rattle": 0.1}, "cannot be perturbed"),
        ({"molecule": "H2O", "count": 2}, "all copies would be equal"),
    ],
)
def test_what_small_structures_refuse(keys: dict[str, Any], message: str) -> None:
    crystal = {} if {"dimer", "atom", "molecule"} & keys.keys() else {"prototype": "fcc", "element": "Cu"}
    with pytest.raises(ValidationError, match=message):
        build(**crystal, **keys)


def test_a_molecule_longer_than_its_box() -> None:
    with pytest.raises(DataError, match=r"CH3OH is \d\.\d+ Å long, box is 1 Å: enlarge the box"):
        build(molecule="CH3OH", box=1.0)


def test_keys_of_older_declarations_stay() -> None:
    plain = CONFIG.validate_python({"prototype": "fcc", "element": "Cu"})
    assert not {"surface", "cluster"} & plain.model_dump(mode="json").keys()
    cut = CONFIG.validate_python({"prototype": "fcc", "element": "Cu", "surface": {"miller": [1, 0, 0]}})
    assert cut.model_dump(mode="json")["surface"]["miller"] == [1, 0, 0]
