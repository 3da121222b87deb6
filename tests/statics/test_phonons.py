"""Phonons: sum rules, known limits, imaginary modes, files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from pydantic import ValidationError

from dpsim.calculators.statics.elastic import elastic_constants
from dpsim.calculators.statics.phonon_config import PhononConfig, PhononSettings
from dpsim.calculators.statics.phonon_run import read_bands, run_phonons
from dpsim.calculators.statics.phonons import Phonons, phonons, repetitions, supercell_matrix
from dpsim.calculators.statics.relax import relax
from dpsim.calculators.statics.relax_config import TightSettings
from dpsim.calculators.statics.source import model_source
from dpsim.errors import DataError, StageError

SMALL: dict[str, Any] = {"supercell": [3, 3, 3], "mesh": 30.0, "band_points": 11}


def config(**options: Any) -> PhononConfig:
    return PhononConfig.model_validate({"on": {"prototype": "fcc", "element": "Cu"}, **SMALL, **options})


@pytest.fixture(scope="module")
def copper() -> Any:
    return relax(bulk("Cu", cubic=True, a=3.6), EMT(), TightSettings()).atoms


@pytest.fixture(scope="module")
def of_copper(copper: Any) -> Phonons:
    return phonons(copper, EMT(), PhononSettings(**SMALL))


def test_what_every_crystal_has(of_copper: Phonons) -> None:
    """No force on a crystal that is shifted as a whole; as many states as modes; the heat of Dulong and Petit."""
    assert len(of_copper.phonon.primitive) == 1
    np.testing.assert_allclose(of_copper.gamma, 0.0, atol=1e-4)
    dos = of_copper.dos
    assert dos.total.sum() * np.diff(dos.frequencies)[0] == pytest.approx(3.0, abs=0.03)
    thermal = of_copper.thermal
    assert thermal is not None
    assert thermal.heat_capacity[-1] == pytest.approx(3 * 8.31446, rel=0.01)
    assert thermal.free_energy[0] == pytest.approx(of_copper.zero_point * 96.4853, rel=0.01)
    assert not of_copper.imaginary.found
    assert of_copper.imaginary.sentence.startswith("no imaginary modes beyond 0.1 THz")
    assert of_copper.displacements == 1


def test_sound_is_that_of_the_elastic_constants(copper: Any, of_copper: Phonons) -> None:
    """Along [100], ρ v² is C11 for the longitudinal and C44 for the transverse waves, near Γ."""
    constants = elastic_constants(copper, EMT()).constants
    density = 63.546 * 1.66053907e-27 / (copper.get_volume() / 4 * 1e-30)
    q = 0.02
    found = of_copper.phonon.run_qpoints([[q, 0.0, q]]).frequencies[0]  # [100] in the cell of phonopy
    wave = q * 2 / (copper.cell.lengths()[0] * 1e-10)  # 1/m
    velocities = found * 1e12 / wave
    moduli = density * velocities**2 / 1e9
    np.testing.assert_allclose(moduli, [constants["C44"], constants["C44"], constants["C11"]], rtol=0.03)


def test_force_constants_one_by_one_say_the_same(copper: Any, of_copper: Phonons) -> None:
    direct = phonons(copper, EMT(), PhononSettings(**SMALL, force_constants="direct", relax=False, projected=True))
    ours, theirs = (np.concatenate([part.frequencies for part in one.bands.parts]) for one in (of_copper, direct))
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    np.testing.assert_allclose(direct.dos.elements["Cu"], direct.dos.total, atol=0.05)


def test_a_model(pair_model: Path) -> None:
    """The fast path of models gives what the calculator gives, one by one."""
    source = model_source(pair_model)
    settings = PhononSettings(**SMALL, thermal=False)
    ours, theirs = (phonons(bulk("Cu", a=3.6), one, settings) for one in (source, lambda atoms: Plain(source(atoms))))
    np.testing.assert_allclose(ours.gamma, 0.0, atol=1e-4)
    assert ours.highest == pytest.approx(theirs.highest, abs=1e-6)
    assert ours.thermal is None
    assert ours.relaxed is not None


class Plain:
    """A calculator that is not known to be that of a model."""

    def __init__(self, calculator: Any) -> None:
        self.calculator = calculator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.calculator, name)


def test_an_unstable_crystal(tmp_path: Path) -> None:
    """Simple cubic copper is held together by its symmetry alone."""
    simple = bulk("Cu", "sc", a=2.4)
    simple.info["name"] = "simple"
    options: dict[str, Any] = {"thermal": {"tmax": "100 K"}}
    found = run_phonons(config(**options), simple, EMT(), tmp_path)
    assert found.imaginary.found
    assert found.imaginary.commensurate < -0.1
    assert "imaginary" in found.imaginary.sentence
    facts = json.loads((tmp_path / "imaginary.json").read_text())
    assert facts["found"]
    assert facts["lowest_THz"] == found.imaginary.lowest < -0.5
    assert 0 < facts["share_of_modes"] < 1
    with pytest.raises(
        StageError, match=r"simple: the frequency at q = .* is imaginary, .*i THz: the structure is unst"
    ):
        run_phonons(config(**options, imaginary={"fail": True}), simple, EMT(), tmp_path)


def test_files_and_the_comparison_with_others(copper: Any, pair_model: Path, tmp_path: Path) -> None:
    from phonopy import load

    found = run_phonons(config(), copper, EMT(), tmp_path / "emt")
    again = load(tmp_path / "emt" / "phonopy_params.yaml", log_level=0, fc_calculator="symfc")
    np.testing.assert_allclose(
        again.run_qpoints([[0.5, 0, 0.5]]).frequencies, found_at(found, [0.5, 0, 0.5]), atol=1e-3
    )
    with (tmp_path / "emt" / "thermal.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["temperature_K"], rows[-1]["temperature_K"], len(rows)) == ("0", "1000", 101)
    bands = read_bands(tmp_path / "emt" / "bands.csv")
    assert [(part.begin, part.end) for part in bands] == [(p.begin, p.end) for p in found.bands.parts]
    summary = json.loads((tmp_path / "emt" / "summary.json").read_text())
    assert (summary["supercell_atoms"], summary["space_group"], summary["imaginary"]) == (108, "Fm-3m", False)
    assert summary["points_THz"]["X"][2] == pytest.approx(8.14, abs=0.05)

    compared = {"reference": "emt/bands.csv", "thermal": False}
    reference = tmp_path / "emt" / "bands.csv"
    run_phonons(config(**compared), copper, model_source(pair_model), tmp_path / "lj", reference=reference)
    difference = json.loads((tmp_path / "lj" / "summary.json").read_text())["reference"]
    assert difference["largest_THz"] > difference["rms_THz"] > 1.0
    assert difference["highest_THz"] == pytest.approx(found.bands.highest, abs=1e-5)
    assert (tmp_path / "lj" / "bands_reference.csv").is_file()
    options = {**compared, "max_difference": "10 cm-1"}
    with pytest.raises(StageError, match=r"bands differ from the reference by .* which passes max_difference"):
        run_phonons(config(**options), copper, model_source(pair_model), tmp_path / "x", reference=reference)
    with pytest.raises(DataError, match="holds bands along another path"):
        run_phonons(config(**compared, band_points=5), copper, EMT(), tmp_path / "x", reference=reference)
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no table of bands"):
        run_phonons(config(**compared), copper, EMT(), tmp_path / "x", reference=tmp_path / "wrong.csv")


def found_at(found: Phonons, q: list[float]) -> Any:
    return found.phonon.run_qpoints([q]).frequencies


def test_forces_that_are_done_are_kept(copper: Any, tmp_path: Path) -> None:
    first = phonons(copper, EMT(), PhononSettings(**SMALL), kept=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"forces-00000.npy", "relaxed.json", "relaxed.traj"}

    def refuse(atoms: Any) -> Any:
        raise AssertionError

    again = phonons(copper, refuse, PhononSettings(**SMALL), kept=tmp_path)
    assert again.highest == first.highest


def test_sizes_of_supercells() -> None:
    primitive = bulk("Cu", a=3.6)
    assert repetitions(bulk("Cu", cubic=True, a=3.6), 10.0) == [3, 3, 3]
    assert repetitions(primitive, 10.0) == [5, 5, 5]  # the height of the cell counts, not the length of its vectors
    matrix = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    np.testing.assert_array_equal(supercell_matrix(primitive, PhononSettings(supercell=matrix)), matrix)


def test_a_path_of_ones_own(copper: Any) -> None:
    path = {"path": [["Γ", "X", "K"], ["L", "Γ"]], "points": {"Γ": [0, 0, 0], "X": [0.5, 0, 0.5], "K": [0.375, 0.375, 0.75], "L": [0.5, 0.5, 0.5]}}  # fmt: skip # noqa: E501
    found = phonons(copper, EMT(), PhononSettings.model_validate({**SMALL, "bands": path}))
    assert [(part.begin, part.end) for part in found.bands.parts] == [("Γ", "X"), ("X", "K"), ("L", "Γ")]
    assert found.bands.path == "given"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supercell": [0, 1, 1]}, "repetition below one"),
        ({"supercell": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, "no positive volume"),
        ({"supercell": [2, 2, 2], "min_length": "10 angstrom"}, "size of the supercell once"),
        ({"thermal": {"tmin": "300 K", "tmax": "100 K"}}, "lies below tmin"),
        ({"bands": {"path": [["A", "B"]], "points": {"A": [0, 0, 0]}}}, "goes through 'B'"),
        ({"max_difference": "0.1 THz"}, "max_difference is one to a reference"),
        ({"displacement": "0.1 THz"}, "unit 'THz'"),
        ({"mesh": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in SMALL.items() if key != "supercell"} | options
    with pytest.raises(ValidationError, match=message):
        PhononConfig.model_validate({"on": "a.b", **given})


def test_structures_that_have_no_phonons(copper: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="phonons need a crystal that is periodic in three directions"):
        phonons(molecule("CO"), EMT())
    (tmp_path / "BORN").write_text("nothing")
    with pytest.raises(DataError, match="is no file BORN of phonopy"):
        phonons(copper, EMT(), PhononSettings(**SMALL), nac=tmp_path / "BORN")


def test_charges_split_polar_modes(shared: Path) -> None:
    """With Born charges, the optical modes of rock salt at Γ are no longer equal from the side they are looked at."""
    from ase.calculators.lj import LennardJones
    from ase.io import read

    salt = read(shared / "data" / "phonon" / "NaCl" / "POSCAR-unitcell", format="vasp")
    settings = PhononSettings(supercell=(1, 1, 1), mesh=10.0, band_points=5, thermal=False, relax=False)
    calculator = LennardJones(sigma=2.5, epsilon=0.3, rc=7.0, smooth=True)
    born = shared / "data" / "phonon" / "NaCl" / "BORN"
    plain, split = (phonons(salt, calculator, settings, nac=path) for path in (None, born))
    top, polar = (one.bands.parts[0].frequencies[0] for one in (plain, split))
    assert top[5] - top[3] < 1e-3
    assert polar[5] - polar[3] > 1.0
    np.testing.assert_allclose(polar[3:5], top[3:5], atol=1e-3)
