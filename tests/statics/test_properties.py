"""Properties of crystals: known relations between them, references, failures, files."""

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

from dpsim.calculators.statics.defects import surfaces, vacancies
from dpsim.calculators.statics.elastic import elastic_constants, matrix_of, rotated, symmetrized, tensor_of
from dpsim.calculators.statics.eos import equation_of_state
from dpsim.calculators.statics.neb import barrier, vacancy_hop
from dpsim.calculators.statics.properties_config import (
    ElasticConfig,
    EosConfig,
    NebConfig,
    PropertiesConfig,
    SurfaceConfig,
    VacancyConfig,
)
from dpsim.calculators.statics.properties_run import run_properties
from dpsim.calculators.statics.relax import relax
from dpsim.calculators.statics.relax_config import TightSettings
from dpsim.calculators.statics.source import model_source
from dpsim.calculators.statics.values import Value, compare, read_references
from dpsim.errors import ConfigError, DataError, StageError

COPPER = {"prototype": "fcc", "element": "Cu"}


def emt(atoms: Any) -> Any:
    return EMT()


@pytest.fixture(scope="module")
def copper() -> Any:
    return relax(bulk("Cu", a=3.6), emt, TightSettings(fmax=1e-4, stress_max=5.0)).atoms


def test_bulk_modulus_of_volumes_and_of_strains(copper: Any) -> None:
    """(C11 + 2 C12)/3 is the bulk modulus of the equation of state, whichever equation is fitted."""
    elastic = elastic_constants(copper, emt)
    bulk_modulus = (elastic.constants["C11"] + 2 * elastic.constants["C12"]) / 3
    for equation in ("birchmurnaghan", "vinet", "murnaghan"):
        eos = equation_of_state(copper, emt, EosConfig(equation=equation, volumes=0.03))  # type: ignore[arg-type]
        assert eos.bulk_modulus == pytest.approx(bulk_modulus, rel=5e-3)
        assert eos.volume == pytest.approx(copper.get_volume(), rel=1e-3)
        assert 2 < eos.derivative < 8
    assert (elastic.system, set(elastic.constants), elastic.stable) == ("cubic", {"C11", "C12", "C44"}, True)
    assert elastic.hill[0] == pytest.approx(bulk_modulus)
    assert elastic.reuss[1] < elastic.hill[1] < elastic.voigt[1]
    assert elastic.residual_stress < 1e-3


def test_pair_potentials_have_equal_c12_and_c44(pair_model: Path) -> None:
    source = model_source(pair_model)
    crystal = relax(bulk("Cu", a=3.6), source, TightSettings(fmax=1e-5, stress_max=1.0)).atoms
    found = elastic_constants(crystal, source).constants
    assert found["C12"] == pytest.approx(found["C44"], rel=2e-3)
    assert found["C11"] == pytest.approx(1.96 * found["C12"], rel=0.02)


def test_constants_do_not_depend_on_how_the_crystal_lies(copper: Any) -> None:
    turned = bulk("Cu", cubic=True, a=copper.cell.lengths()[0] * 2**0.5)
    turned.rotate(35, (1, 2, 3), rotate_cell=True)
    ours, theirs = elastic_constants(copper, emt), elastic_constants(turned, emt)
    for name, value in ours.constants.items():
        assert theirs.constants[name] == pytest.approx(value, rel=2e-3)
    assert np.abs(theirs.matrix - theirs.standard).max() > 1.0


def test_a_hexagonal_crystal() -> None:
    """hcp: five constants, C66 is half of C11 − C12; atoms inside of the cell are relaxed under shear."""
    crystal = relax(bulk("Ni", "hcp", a=2.5), emt, TightSettings()).atoms
    found = elastic_constants(crystal, emt, ElasticConfig(strains=(0.004,)))
    assert found.system == "hexagonal"
    assert set(found.constants) == {"C11", "C12", "C13", "C33", "C44"}
    assert found.standard[5, 5] == pytest.approx((found.constants["C11"] - found.constants["C12"]) / 2, rel=1e-6)
    unrelaxed = elastic_constants(crystal, emt, ElasticConfig(strains=(0.004,), fmax=10.0))
    assert unrelaxed.constants["C11"] > found.constants["C11"] + 0.5


def test_tensors_of_stiffness() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(6, 6))
    matrix += matrix.T
    np.testing.assert_allclose(matrix_of(tensor_of(matrix)), matrix)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    np.testing.assert_allclose(rotated(rotated(matrix, turn), turn.T), matrix, atol=1e-12)
    np.testing.assert_allclose(symmetrized(matrix, np.array([np.eye(3), -np.eye(3)])), matrix, atol=1e-12)


def test_vacancies(copper: Any) -> None:
    (found,) = vacancies(copper, emt, VacancyConfig(min_length=7.0))
    assert (found.element, found.atoms, len(found.structure)) == ("Cu", 64, 63)
    assert 0.9 < found.energy < found.unrelaxed < 1.5
    with pytest.raises(ConfigError, match=r"vacancy.species: Au is not in Cu, which holds Cu"):
        vacancies(copper, emt, VacancyConfig(species=("Au",)))
    alloy = bulk("NiAl", "cesiumchloride", a=2.9)
    with pytest.raises(ConfigError, match=r"is a compound, where the energy of a Ni atom .*: \{Ni: -1.0 eV\}"):
        vacancies(alloy, emt)
    both = VacancyConfig(min_length=5.0, chemical_potentials={"Ni": 0.0, "Al": 0.0}, max_steps=200)
    assert [one.element for one in vacancies(alloy, emt, both)] == ["Ni", "Al"]


def test_surfaces(copper: Any) -> None:
    """The close-packed surface costs least; slabs of twice the thickness give the same energy."""
    found = surfaces(copper, emt)
    energies = {one.name: one.energy for one in found}
    assert energies["111"] < energies["100"] < energies["110"]
    assert all(one.energy <= one.unrelaxed for one in found)
    lattice = copper.cell.lengths()[0] * 2**0.5
    assert found[0].area == pytest.approx(lattice**2)
    (thick,) = surfaces(copper, emt, SurfaceConfig(miller=((1, 0, 0),), min_thickness=24.0))
    assert thick.energy == pytest.approx(energies["100"], rel=5e-3)
    (double,) = surfaces(copper, emt, SurfaceConfig(miller=((2, 0, 0),)))
    assert double.energy == pytest.approx(energies["100"])
    with pytest.raises(ValidationError, match="are no Miller indices"):
        SurfaceConfig(miller=((0, 0, 0),))


def test_a_barrier_that_is_symmetric(copper: Any) -> None:
    initial, final = vacancy_hop(copper, 5.0)
    found = barrier(initial, final, emt, NebConfig(vacancy_hop=True, images=3, fmax=0.05))
    assert 0.3 < found.barrier < 1.2
    assert found.reverse == pytest.approx(found.barrier, abs=5e-3)
    assert found.reaction == pytest.approx(0.0, abs=5e-3)
    assert found.distances[0] == 0
    assert found.energies.argmax() == 2
    assert (len(found.images), found.fmax <= 0.05) == (5, True)


def test_ends_that_do_not_fit(copper: Any) -> None:
    initial, final = vacancy_hop(copper, 5.0)
    other = final.copy()
    other.symbols[3] = "Au"
    wider = final.copy()
    wider.set_cell(1.1 * final.cell.array)
    for wrong, message in (
        (final[:-1], "initial has .* atoms and final .*, expected the same atoms"),
        (other, "atom 3 is Cu in initial and Au in final"),
        (wider, "differ in cell or boundaries"),
        (initial, "are the same structure"),
    ):
        with pytest.raises(DataError, match=message):
            barrier(initial, wrong, emt)
    nudged = initial.copy()
    nudged.positions[5] += 0.1
    with pytest.raises(StageError, match="relax to the same state"):
        barrier(initial, nudged, emt)


def test_no_minimum_of_the_energy(copper: Any) -> None:
    swollen = copper.copy()
    swollen.set_cell(1.1 * copper.cell.array, scale_atoms=True)
    with pytest.raises(StageError, match="Cu: energies have no minimum within ±6 % of the volume, the smallest one"):
        equation_of_state(swollen, emt)


def config(**options: Any) -> PropertiesConfig:
    return PropertiesConfig.model_validate({"on": {"copper": COPPER}, **options})


def named(atoms: Any, name: str) -> Any:
    atoms = atoms.copy()
    atoms.info = {"name": name}
    return atoms


def test_a_table_and_a_reference(copper: Any, tmp_path: Path) -> None:
    (tmp_path / "ref.yaml").write_text(
        "copper:\n  a: 0.3615 nm\n  C11: {value: 1.7 eV/angstrom3, source: an experiment}\n  C44: 75 GPa\n"
        "  surface_111: 1.8\n"
    )
    wanted: dict[str, Any] = {"compute": ["relax", "eos", "elastic"], "reference": "ref.yaml"}
    tolerance = {"relax": "1 %", "C44": "20 GPa"}
    found = run_properties(
        config(**wanted, tolerance=tolerance), [named(copper, "copper")], emt, tmp_path / "out",
        reference=tmp_path / "ref.yaml",
    )  # fmt: skip
    with (tmp_path / "out" / "vs_reference.csv").open() as file:
        rows = {row["property"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a", "C11", "C44"]
    assert (float(rows["a"]["reference"]), rows["a"]["within"], rows["a"]["unit"]) == (3.615, "yes", "angstrom")
    assert (float(rows["C11"]["reference"]), rows["C11"]["source"]) == (
        pytest.approx(272.37, abs=0.01),
        "an experiment",
    )
    assert (rows["C11"]["tolerance"], rows["C11"]["within"]) == ("", "")
    assert (rows["C44"]["tolerance"], rows["C44"]["within"]) == ("20", "yes")
    assert found.unused == ["copper.surface_111"]
    document = json.loads((tmp_path / "out" / "properties.json").read_text())
    assert document["reference"] == {"compared": 3, "within": 2, "beyond": 0, "not_computed": ["copper.surface_111"]}
    assert document["details"]["copper"]["elastic"]["stable"]

    # The table of one calculation is the reference of another.
    table = tmp_path / "out" / "table.csv"
    options: dict[str, Any] = {"compute": ["relax"], "reference": "table.csv"}
    again = run_properties(
        config(**options, tolerance="0.1 %"), [named(copper, "copper")], emt, tmp_path / "again", reference=table
    )
    assert [one.within for one in again.compared] == [True, True, True]
    strict = {"compute": ["elastic"], "reference": "ref.yaml", "tolerance": {"elastic": "1 %"}}
    with pytest.raises(
        StageError, match=r"2 of 2 values are beyond their tolerance: copper.C11 is 17\d.* GPa, the refer"
    ):
        run_properties(
            config(**strict), [named(copper, "copper")], emt, tmp_path / "x", reference=tmp_path / "ref.yaml"
        )
    assert (tmp_path / "x" / "vs_reference.csv").is_file()
    with pytest.raises(
        ConfigError, match=r"tolerance.C12 has no effect: the reference holds no C12, only C11, C44, a, "
    ):
        run_properties(
            config(**wanted, tolerance={"C12": "1 %"}), [named(copper, "copper")], emt, tmp_path / "z",
            reference=tmp_path / "ref.yaml",
        )  # fmt: skip
    run_properties(
        config(**strict, beyond_tolerance="warn"), [named(copper, "copper")], emt, tmp_path / "y",
        reference=tmp_path / "ref.yaml",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("copper: {C1: 3}", "'C1' is not the name of a property: write names such as a, V0"),
        ("copper: {C11: 3 eV}", "ref.yaml: copper: C11: unit 'eV' in '3 eV' is not a unit of modulus"),
        ("copper: {C11: {value: 3, sorce: x}}", "C11 has the key 'sorce', expected value and source"),
        ("gold: {C11: 170}", "reference: it holds gold, but the structures are called copper"),
        ("- 3", "holds no mapping"),
        ("a: [", "cannot be read"),
        ("a: !!python/object/apply:os.system [x]", "cannot be read"),
    ],
)
def test_references_that_are_none(copper: Any, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ref.yaml"
    path.write_text(text)
    with pytest.raises((ConfigError, DataError), match=message):
        run_properties(
            config(compute=["relax"], reference="ref.yaml"), [named(copper, "copper")], emt, tmp_path / "out",
            reference=path,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_values_of_any_structure_and_tolerances(tmp_path: Path) -> None:
    (tmp_path / "ref.json").write_text('{"B0": 140, "neb_barrier": "700 meV"}')
    references = read_references(tmp_path / "ref.json")
    values = [Value("x", "B0", 133.0), Value("neb", "neb_barrier", 0.71)]
    found, unused = compare(values, references, "5 %")
    assert ([one.within for one in found], unused) == ([True, True], [])
    found, _ = compare(values, references, "2 GPa")  # says nothing of energies
    assert [one.within for one in found] == [False, None]


def test_one_failure_does_not_touch_the_others(copper: Any, tmp_path: Path) -> None:
    lone = named(bulk("Cu", a=3.6), "lone")
    options: dict[str, Any] = {
        "on": [COPPER, COPPER],
        "compute": ["relax", {"vacancy": {"max_steps": 1, "fmax": 1e-5}}],
    }
    with pytest.raises(
        StageError, match=r"2 of 4 calculations failed \(copper, vacancy: .* cannot be relaxed: not conv"
    ):
        run_properties(config(**options), [named(copper, "copper"), lone], emt, tmp_path / "out")
    found = run_properties(
        config(**options, tolerate_failures=0.5), [named(copper, "copper"), lone], emt, tmp_path / "out"
    )
    assert {(value.structure, value.name) for value in found.values} >= {("copper", "a"), ("lone", "a")}
    assert [(name, one) for name, one, _ in found.failures] == [("copper", "vacancy"), ("lone", "vacancy")]


def test_what_is_done_is_kept(copper: Any, tmp_path: Path) -> None:
    compute = ["relax", "eos", {"phonon": {"supercell": [3, 3, 3], "mesh": 20.0, "band_points": 5}}]
    first = run_properties(config(compute=compute), [named(copper, "c")], emt, tmp_path / "a", work=tmp_path / "work")
    calls: list[Any] = []

    def counted(atoms: Any) -> Any:
        calls.append(atoms)
        return EMT()

    again = run_properties(
        config(compute=compute), [named(copper, "c")], counted, tmp_path / "b", work=tmp_path / "work"
    )
    assert again.values == first.values
    assert {value.name for value in first.values} >= {"phonon_highest", "phonon_lowest", "zero_point_energy", "B0"}
    assert len(calls) == 1  # the check of the structure


def test_barriers_between_given_states(copper: Any, tmp_path: Path) -> None:
    ends = vacancy_hop(copper, 5.0)
    neb = {"neb": {"initial": "a.b", "final": "c.d", "images": 1, "climb": False, "fmax": 0.1}}
    declared = PropertiesConfig.model_validate({"compute": neb})
    found = run_properties(declared, [], emt, tmp_path, ends=ends)
    assert found.values[0][:2] == ("neb", "neb_barrier")


def test_structures_of_one_name_are_refused(copper: Any, tmp_path: Path) -> None:
    two = [named(copper, "copper"), named(bulk("Cu", a=3.9), "copper")]
    with pytest.raises(DataError, match=r'2 structures are called copper, .* each: set info\["name"\]'):
        run_properties(config(compute=["relax"]), two, emt, tmp_path / "out")
    neb = {"neb": {"initial": "a.b", "final": "c.d"}}
    declared = PropertiesConfig.model_validate({"on": COPPER, "compute": {"relax": {}, **neb}})
    with pytest.raises(DataError, match="2 structures are called neb"):
        run_properties(declared, [named(copper, "neb")], emt, tmp_path / "out", ends=vacancy_hop(copper, 5.0))


def test_only_crystals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a cell that is periodic in three directions"):
        run_properties(config(compute=["relax"]), [molecule("CO")], emt, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute": []}, "compute names no property"),
        ({"compute": ["elastics"]}, "'elastics' is not one of relax, eos, elastic"),
        ({"compute": {"elastics": {}}}, "Extra inputs"),
        ({"compute": ["eos", "eos"]}, "given twice"),
        ({"compute": ["eos"], "on": None}, "eos is computed for structures, but 'on' gives none"),
        ({"compute": ["neb"]}, "neb needs both 'initial' and 'final'"),
        ({"compute": {"neb": {"initial": "a", "final": "b"}}}, "'on' has no effect"),
        ({"compute": {"neb": {"initial": "a", "final": "b", "vacancy_hop": True}}}, "takes either"),
        ({"compute": ["eos"], "tolerance": "5 %"}, "tolerance is one to a reference"),
        ({"compute": ["eos"], "reference": "x", "tolerance": "5 apples"}, "is not a tolerance"),
        (
            {"compute": ["eos"], "reference": "x", "tolerance": {"elsatic": "2 %"}},
            "'elsatic' is not the name of a prop",
        ),
        (
            {"compute": ["eos"], "reference": "x", "tolerance": {"C11": "2 %"}},
            "tolerance.C11 has no effect: elastic is",
        ),
        (
            {"compute": ["eos"], "reference": "x", "tolerance": {"E0": "2 meV"}},
            r"tolerance.E0 is '2 meV', .* in eV/atom",
        ),
        ({"compute": ["relax"], "reference": "x", "tolerance": "2 GPa"}, "tolerance is '2 GPa', expected a share"),
        ({"compute": [{"phonon": {"relax": False}}]}, "the relaxation of all properties is set by 'relax'"),
        ({"compute": [{"phonon": {"thermal": False}}]}, "phonon.thermal has no effect here"),
        ({"compute": {"elastic": {"strains": [0.5]}}}, "less than or equal to 0.1"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)
