"""Spin models: their settings, their answers, their files, and the structures of ASE that they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from pydantic import TypeAdapter, ValidationError

from dpsim import DPCalculator
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.descriptors import DPA1Config, DPA2Config, HybridConfig, SeE2AConfig, SeE2RConfig
from dpsim.errors import ConfigError, DataError, ModelError
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.checkpoint import save_model
from dpsim.model.compose.spin_config import SpinModelConfig, without_neighbors
from dpsim.model.config import ModelConfig, read_config
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.model.peer.section import InputSection
from dpsim.testing import CHECKS, check_all
from dpsim.train.settings.model import ModelSection, SpinModel

TYPES = np.array([0, 1, 0, 1, 0])


def standard(descriptor, **fitting):
    fitting = EnergyFittingConfig.tiny().model_copy(update=fitting)
    return ModelConfig(type_map=("Ni", "O"), descriptor=descriptor.tiny(), fitting=fitting)


def spin_model(descriptor, scale=(0.3, 0.0), **fitting):
    return SpinModelConfig.over(standard(descriptor, **fitting), scale)


def potential_of(config, seed=0):
    return Potential(ModuleEngine(config.build(seed).with_precision("float64"), "cpu"), "the model")


@pytest.fixture(scope="module")
def potential():
    return potential_of(SpinModelConfig.tiny())


@pytest.fixture
def crystal():
    rng = np.random.default_rng(0)
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    cell = 3.9 * np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))
    return {"positions": sites @ cell + rng.uniform(-0.1, 0.1, (5, 3)), "types": TYPES, "cell": cell,
            "spin": rng.normal(size=(5, 3))}  # fmt: skip


def test_settings_of_the_doubled_types():
    config = spin_model(SeE2AConfig)
    inner = config.backbone
    assert inner.type_map == ("Ni", "O", "Ni_spin", "O_spin")
    assert set(inner.atom_exclude_types) == {2, 3}
    assert {frozenset(pair) for pair in inner.pair_exclude_types} == {frozenset((t, 3)) for t in range(4)}
    assert inner.descriptor.env_protection == 0.01
    assert config.use_spin == (True, False)
    assert config.atom_exclude_types == ()


def test_numbers_of_neighbours_by_type_serve_virtual_atoms_too():
    model = standard(SeE2AConfig)
    listed = model.model_copy(update={"descriptor": model.descriptor.model_copy(update={"sel": (11, 7)})})
    inner = SpinModelConfig.over(listed, (0.3, 0.2)).backbone
    assert inner.descriptor.sel == (11, 7, 11, 7)
    kept = listed.model_copy(update={"descriptor": listed.descriptor.model_copy(update={"env_protection": 0.05})})
    assert SpinModelConfig.over(kept, (0.3, 0.2)).backbone.descriptor.env_protection == 0.05


def test_members_of_a_hybrid_are_doubled():
    members = HybridConfig(list=(SeE2AConfig.tiny(), SeE2RConfig.tiny()))
    config = SpinModelConfig.over(ModelConfig(type_map=("Ni", "O"), descriptor=members), (0.3, 0.0))
    assert config.backbone.descriptor.env_protection == 0.01
    potential_of(config).evaluate(np.eye(3), [0, 1, 0], spin=np.eye(3))


def test_pairs_without_neighbours_name_each_pair_once():
    found = {frozenset(pair) for pair in without_neighbors((0.0, 0.3, 0.0))}
    assert found == {frozenset((t, p)) for p in (3, 5) for t in range(6)}
    assert len(without_neighbors((0.0, 0.3, 0.0))) == len(found)


def changed(**changes):
    """Settings of the tiny model with other ones, of the backbone for keys that begin with an underscore."""
    settings = SpinModelConfig.tiny().model_dump()
    for key, value in changes.items():
        (settings["backbone"] if key.startswith("_") else settings)[key.removeprefix("_")] = value
    return settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(virtual_scale=(0.3,)), "there are 1 virtual_scale for 2 types"),
        (changed(virtual_scale=(0.0, 0.0)), "at least one must be magnetic"),
        (changed(type_map=("O", "N")), r"expected \['O', 'N', 'O_spin', 'N_spin'\]"),
        (changed(_atom_exclude_types=(2,)), r"atom_exclude_types lacks \[3\]: virtual atoms have no energy"),
        (changed(_pair_exclude_types=((0, 3), (1, 3), (2, 3))), r"pair_exclude_types lacks \[3, 3\]"),
        (changed(_descriptor=ModelConfig.tiny().descriptor), "env_protection must be above 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        SpinModelConfig.model_validate(settings)


def test_the_kind_of_model_is_found_by_its_type():
    config = SpinModelConfig.tiny()
    assert read_config(config.model_dump(mode="json")) == config


def test_output_bias_is_that_of_the_real_types():
    model = SpinModelConfig.tiny().build(0)
    model.out_bias.copy_(torch.tensor([1.5, -2.0]))
    assert model.backbone.out_bias.tolist() == [1.5, -2.0, 0.0, 0.0]
    assert "out_bias" not in model.state_dict()


ESSENTIAL = {
    "check_rotation", "check_permutation", "check_batch", "check_isolated_atom", "check_empty", "check_placeholders",
    "check_forces", "check_virial", "check_conservation", "check_parameter_gradient", "check_magnetic_forces",
    "check_spins_matter", "check_zero_spins", "check_file_round_trip",
}  # fmt: skip


@pytest.mark.parametrize("descriptor", [SeE2AConfig, DPA1Config, DPA2Config], ids=lambda one: one.__name__)
def test_contract_on_other_descriptors(descriptor):
    # DPA-1 turns with the direction of a virtual atom however near it is: no limit as a spin vanishes
    skip = {"check_zero_spins"} if descriptor is DPA1Config else set()
    check_all(spin_model(descriptor), skip={check.__name__ for check in CHECKS} - (ESSENTIAL - skip))


def test_spins_of_types_without_spin_have_no_effect(potential, crystal):
    expected = potential.evaluate(**crystal)
    turned = potential.evaluate(**crystal | {"spin": np.where(TYPES[:, None] == 1, 7.0, crystal["spin"])})
    assert turned.energy == expected.energy
    np.testing.assert_array_equal(turned.magnetic_forces, expected.magnetic_forces)


def test_atomic_parameters_of_virtual_atoms_are_zero(crystal):
    potential = potential_of(spin_model(SeE2AConfig, numb_aparam=2))
    aparam = np.random.default_rng(1).normal(size=(5, 2))
    p = potential.evaluate(**crystal, aparam=aparam)
    h, unit = 1e-4, np.eye(5)[:, :1] * np.eye(3)[0]
    moved = [potential.evaluate(**crystal | {"spin": crystal["spin"] + s * h * unit}, aparam=aparam).energy
             for s in (1, -1)]  # fmt: skip
    assert p.magnetic_forces[0, 0] == pytest.approx(-(moved[0] - moved[1]) / (2 * h), rel=1e-5, abs=1e-9)


def test_descriptors_are_those_of_the_atoms(potential, crystal):
    found = potential.descriptor(**crystal)
    assert found.shape == (5, potential.descriptor([[0, 0, 0]], [0], spin=[[0, 0, 1]]).shape[1])


def test_spins_that_are_missing_or_not_taken(potential, crystal):
    without = {key: value for key, value in crystal.items() if key != "spin"}
    with pytest.raises(ModelError, match=r"frame 0: the model takes spin .* give spin of shape \(5, 3\)"):
        potential.evaluate(**without)
    with pytest.raises(DataError, match=r"frame 0: spin has shape \(2, 2\), expected \(5, 3\)"):
        potential.evaluate(**without, spin=np.zeros((2, 2)))
    with pytest.raises(ModelError, match="takes no spin"):
        potential_of(ModelConfig.tiny()).evaluate(**crystal)


def atoms_of(crystal, **arrays):
    atoms = Atoms(["OH"[t] for t in TYPES], crystal["positions"], cell=crystal["cell"], pbc=True)
    for name, values in arrays.items():
        atoms.set_array(name, values)
    return atoms


def test_ase_takes_initial_magnetic_moments(potential, crystal):
    atoms, expected = atoms_of(crystal), potential.evaluate(**crystal)
    atoms.set_initial_magnetic_moments(crystal["spin"])
    atoms.calc = DPCalculator(potential)
    assert atoms.get_potential_energy() == expected.energy
    np.testing.assert_array_equal(atoms.get_forces(), expected.forces)
    np.testing.assert_array_equal(atoms.calc.results["magnetic_forces"], expected.magnetic_forces)
    stress = -0.5 * (expected.virial + expected.virial.T) / atoms.get_volume()
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=1e-12, atol=1e-15)


def test_moments_of_collinear_structures_are_along_z(potential, crystal):
    atoms, moments = atoms_of(crystal), np.array([1.0, 0.0, -0.5, 0.0, 2.0])
    atoms.set_initial_magnetic_moments(moments)
    atoms.calc = DPCalculator(potential)
    expected = potential.evaluate(**crystal | {"spin": moments[:, None] * [0, 0, 1]})
    assert atoms.get_potential_energy() == expected.energy


def test_the_array_spin_comes_first_and_is_looked_at_again(potential, crystal):
    atoms = atoms_of(crystal, spin=crystal["spin"])
    atoms.set_initial_magnetic_moments(np.ones(5))
    atoms.calc = DPCalculator(potential)
    before = atoms.get_potential_energy()
    assert before == potential.evaluate(**crystal).energy
    atoms.arrays["spin"][0] *= -1
    assert atoms.get_potential_energy() != before
    del atoms.arrays["spin"]
    assert atoms.get_potential_energy() == potential.evaluate(**crystal | {"spin": [0, 0, 1.0]}).energy


def test_structures_of_ase_without_spins(potential, crystal):
    atoms = atoms_of(crystal)
    atoms.calc = DPCalculator(potential)
    with pytest.raises(DataError, match=r"structure has none: give it some with atoms\.set_initial_magnetic_moments"):
        atoms.get_potential_energy()
    atoms.set_array("spin", np.ones((5, 2)))
    with pytest.raises(DataError, match=r"spin has shape \(5, 2\), expected one number or three"):
        atoms.get_potential_energy()


def test_files(tmp_path, crystal):
    model = spin_model(DPA1Config, (0.25, 0.4)).build(3).with_precision("float64")
    expected = Potential(ModuleEngine(model, "cpu"), "").evaluate(**crystal)
    for path in (save_model(model, tmp_path / "m.safetensors"), write_serialized(model, tmp_path / "m.dp")):
        potential = load(path, device="cpu")
        assert potential.type_map == ("Ni", "O")
        assert potential.evaluate(**crystal).energy == expected.energy
    assert load_serialized(tmp_path / "m.dp").config.virtual_scale == (0.25, 0.4)


DESCRIPTOR = {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 0.5, "sel": [10, 12], "neuron": [2, 4], "axis_neuron": 2}


def from_input(spin, descriptor=None, context=None, **model):
    section = {"type_map": ["Ni", "O"], "descriptor": descriptor or dict(DESCRIPTOR), "fitting_net": {"neuron": [4]}}
    section = InputSection({**section, "spin": spin, **model}, "input.json: model")
    return FAMILIES.from_input(section, context or Context(("Ni", "O"), FAMILIES))


@pytest.mark.parametrize(
    ("use_spin", "virtual_scale", "expected"),
    [
        ([True, False], 0.3, (0.3, 0.0)),
        ([True, True], 0.3, (0.3, 0.3)),
        ([False, True], [0.3, 0.2], (0.0, 0.2)),
        ([True, False], [0.314], (0.314, 0.0)),
        ([0], [0.314], (0.314, 0.0)),
        ([1, 0], [0.1, 0.2], (0.1, 0.2)),
        (["O"], [0.4], (0.0, 0.4)),
        (["Ni"], 1, (1.0, 0.0)),
    ],
)
def test_spellings_of_the_peers_input(use_spin, virtual_scale, expected):
    family, settings = from_input({"use_spin": use_spin, "virtual_scale": virtual_scale})
    config = read_config(settings)
    assert family.type == "spin"
    assert config.virtual_scale == expected
    assert config.backbone.descriptor.sel == (10, 12, 10, 12)
    assert config.backbone.descriptor.env_protection == 0.01


@pytest.mark.parametrize(
    ("spin", "message"),
    [
        ({"use_spin": [True], "virtual_scale": 0.3}, r"use_spin: \[True\]: expected 2 booleans"),
        ({"use_spin": ["Fe"], "virtual_scale": 0.3}, r"use_spin: \['Fe'\]: expected"),
        ({"use_spin": [5], "virtual_scale": 0.3}, r"use_spin: \[5\]: expected"),
        ({"use_spin": [], "virtual_scale": 0.3}, r"use_spin: \[\]: expected"),
        ({"use_spin": [0, 1], "virtual_scale": [0.3, 0.2, 0.1]}, "virtual_scale has 3 numbers, expected one, 2"),
        ({"use_spin": [0], "virtual_scale": 0.0}, "virtual_scale: 0.0 must be above 0"),
        ({"use_spin": [0]}, "'virtual_scale' is missing"),
        ({"use_spin": [0], "virtual_scale": 0.3, "scheme": "native"}, "scheme: 'native' is not supported"),
        ({"use_spin": [0], "virtual_scale": 0.3, "spin_size": 1}, "'spin_size' is not known"),
    ],
)
def test_wrong_inputs_of_the_peer(spin, message):
    with pytest.raises(ConfigError, match=message):
        from_input(spin)


def test_exclusions_of_the_descriptor_have_no_effect_there():
    context = Context(("Ni", "O"), FAMILIES)
    _, settings = from_input(
        {"use_spin": [0], "virtual_scale": 0.3}, {**DESCRIPTOR, "exclude_types": [[0, 1]]}, context,
        pair_exclude_types=[[1, 1]],
    )  # fmt: skip
    config = read_config(settings)
    assert {frozenset(p) for p in config.backbone.pair_exclude_types} >= {frozenset((1,)), frozenset((0, 3))}
    assert frozenset((0, 1)) not in {frozenset(p) for p in config.backbone.descriptor.exclude_types}
    assert "exclude_types: has no effect in spin models" in context.notes[0]


def test_numbers_of_neighbours_to_be_counted_are_doubled():
    context = Context(("Ni", "O"), FAMILIES, training=True)
    descriptor = {**DESCRIPTOR, "sel": "auto"}
    family, settings = from_input({"use_spin": [0], "virtual_scale": 0.3}, descriptor, context)
    (place,) = family.sel_places(settings, FAMILIES)
    assert place.path == ("model", "descriptor", "sel")
    assert (place.by_type, place.copies) == (True, 2)


def test_input_of_the_peer_for_training_names_elements():
    context = Context(("Ni", "O"), FAMILIES, training=True)
    _, settings = from_input({"use_spin": [0], "virtual_scale": 0.3}, context=context)
    type_map = settings.pop("type_map")
    section = TypeAdapter(ModelSection).validate_python(settings)
    _, expected = from_input({"use_spin": [0], "virtual_scale": 0.3})
    assert section.resolve(type_map, None) == read_config(expected)


def test_section_of_a_training():
    section = TypeAdapter(ModelSection).validate_python(
        {"type": "spin", "model": {"preset": "dpa3-tiny"}, "virtual_scale": {"Fe": 0.3}, "pair_exclude_types": [[0, 1]]}
    )
    config = section.resolve(("O", "Fe"), "float64")
    assert config.virtual_scale == (0.0, 0.3)
    assert config.precision == "float64"
    assert (0, 1) in config.backbone.pair_exclude_types
    with pytest.raises(ConfigError, match=r"virtual_scale: 'Fe' is not in the type map \['O'\]"):
        section.resolve(("O",), None)
    with pytest.raises(ValidationError, match="type_map stands in the part"):
        SpinModel(type="spin", model={"preset": "dpa3-tiny", "type_map": ["O"]}, virtual_scale={"O": 0.1})


def test_settings_of_a_frozen_model_are_those_of_the_model_within():
    """A ``.pth`` of DeePMD-kit holds the section with the types doubled; what all members share stands in a hybrid."""
    apart = [[3, 0], [3, 1], [3, 2], [3, 3]]
    member = {**DESCRIPTOR, "sel": [10, 12, 10, 12]}
    doubled = {
        "type_map": ["Ni", "O", "Ni_spin", "O_spin"], "fitting_net": {"neuron": [4]}, "pair_exclude_types": apart,
        "atom_exclude_types": [2, 3], "spin": {"use_spin": [True, False], "virtual_scale": 0.3},
        "descriptor": {"type": "hybrid", "list": [member, member], "env_protection": 0.01, "exclude_types": apart},
    }  # fmt: skip
    context = Context(("Ni", "O", "Ni_spin", "O_spin"), FAMILIES)
    _, settings = FAMILIES.from_input(InputSection(doubled, "model"), context)
    hybrid = {"type": "hybrid", "list": [DESCRIPTOR, DESCRIPTOR]}
    _, expected = from_input({"use_spin": [0], "virtual_scale": 0.3}, hybrid)
    found, wanted = read_config(settings), read_config(expected)
    assert found.virtual_scale == (0.3, 0.0)
    assert found.backbone.descriptor.env_protection == wanted.backbone.descriptor.env_protection == 0.01
    assert [one.sel for one in found.backbone.descriptor.list] == [one.sel for one in wanted.backbone.descriptor.list]
    assert {*found.build(0).state_dict()} == {*wanted.build(0).state_dict()}
