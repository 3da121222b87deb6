"""Models made of others: sums and ZBL interpolation against their parts, numbering of types, lists, files."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, load
from dpsim.descriptors import DPA3Config
from dpsim.errors import ConfigError
from dpsim.export.compile import trace
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.config import ModelConfig, read_config
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph
from dpsim.testing import Subject
from dpsim.testing.structures import molecule


def potential_of(model):
    return Potential(ModuleEngine(model, "cpu"), "the model")


def learned(type_map=("O", "H"), sel=40, **fitting):
    """Tiny standard model; `sel` of its descriptor."""
    config = DPA3Config.tiny()
    flow = config.repflow.model_copy(update={"e_sel": sel})
    settings = EnergyFittingConfig.tiny().model_dump() | fitting
    return ModelConfig(type_map=type_map, descriptor=config.model_copy(update={"repflow": flow}), fitting=settings)


def biased(config, seed=3):
    """Model with random output biases everywhere."""
    model = config.build(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("out_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model


@pytest.mark.parametrize(("weights", "factors"), [("mean", (0.5, 0.5)), ("sum", (1, 1)), ((0.3, -2.0), (0.3, -2.0))])
def test_a_linear_model_is_the_weighted_sum_of_its_parts(weights, factors):
    config = LinearModelConfig(type_map=("O", "H"), models=(learned(), PairTableConfig.tiny()), weights=weights)
    model = biased(config)
    structure = molecule(model.neighbors, 2, 7, seed=4)
    found = potential_of(model).evaluate(**structure.as_frame())
    parts = [potential_of(part).evaluate(**structure.as_frame()) for part in model.models]
    bias = model.out_bias.numpy()[structure.types]
    expected = sum(w * np.asarray(p.atomic_energy) for w, p in zip(factors, parts, strict=True)) + bias
    np.testing.assert_allclose(found.atomic_energy, expected, rtol=1e-13)
    for name in ("forces", "virial"):
        expected = sum(w * np.asarray(getattr(p, name)) for w, p in zip(factors, parts, strict=True))
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-13)


def test_parts_of_equal_settings_begin_with_other_parameters():
    model = LinearModelConfig(type_map=("O", "H"), models=(learned(), learned())).build(5)
    first, second = (dict(part.named_parameters()) for part in model.models)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_parts_may_know_more_elements():
    """Their own numbering of the types is of no consequence, for centres, neighbours and excluded pairs."""
    inner = ModelConfig.model_validate(learned(("C", "H", "O")).model_dump() | {"pair_exclude_types": [(0, 2), (2, 2)]})
    model = LinearModelConfig(type_map=("O", "H"), models=(inner,), weights="sum").build(1)
    assert model.neighbors.inner[0].exclude_types == ((0, 0),)
    structure = molecule(model.neighbors, 2, 7, seed=4)
    found = potential_of(model).evaluate(**structure.as_frame())
    symbols = np.array(["O", "H"])[structure.types]
    expected = potential_of(model.models[0]).evaluate(structure.positions, symbols)
    for name in ("atomic_energy", "forces", "virial"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-13, atol=1e-14)


def test_lists_of_parts_follow_the_types():
    spec = NeighborSpec(
        4.0, 30, (10, 12, 8), ((0, 1), (2, 2)), inner=(NeighborSpec(3.0, 9, only=((2, 0),)), NeighborSpec(3.0, 9))
    )
    from dpsim.model.compose.config import _in_types

    found = _in_types(spec, (2, 1))
    assert found.sel_by_type == (8, 12)
    assert found.exclude_types == ((0, 0),)
    assert found.inner[0].only == ((-1, -1),)
    graph = frame_graph(np.eye(3), np.array([0, 1, 1]), None, found)
    assert [len(one.edge) for one in graph.inner] == [0, 6]


def test_truncation_counts_the_places_of_the_outer_list():
    """Each part keeps its own number of nearest neighbours, as it would alone."""
    near = learned(sel=3)
    model = LinearModelConfig(type_map=("O", "H"), models=(near, PairTableConfig.tiny()), weights=(1, 0)).build(2)
    structure = molecule(model.neighbors._replace(inner=()), 2, 9, seed=1)
    found = potential_of(model).evaluate(**structure.as_frame())
    expected = potential_of(model.models[0]).evaluate(**structure.as_frame())
    np.testing.assert_allclose(found.forces, expected.forces, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("r", [0.3, 0.79, 1.0, 1.37, 1.99, 2.3])
def test_zbl_of_a_pair(r):
    """Two atoms: the soft minimum is their distance, and the weight the quintic switch."""
    config = ZBLModelConfig(
        type_map=("O", "H"), model=learned(), table=PairTableConfig.tiny(), sw_rmin=0.8, sw_rmax=2.0
    )
    model = biased(config)
    pair = np.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0]])
    found = potential_of(model).evaluate(pair, [0, 1])
    network, table = (np.asarray(potential_of(m).evaluate(pair, [0, 1]).atomic_energy) for m in model.models)
    u = np.clip((r - 0.8) / 1.2, 0.0, 1.0)
    w = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5
    expected = (1 - w) * network + w * table + model.out_bias.numpy()
    np.testing.assert_allclose(found.atomic_energy, expected, rtol=1e-12)


def test_nearest_distance_is_a_soft_minimum():
    config = ZBLModelConfig.tiny().model_copy(update={"smin_alpha": 0.3})
    model = config.build(0)
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.4, 0.0], [50.0, 0.0, 0.0]])
    hood = collate([frame_graph(positions, np.array([0, 1, 1, 0]), None, model.neighbors)])
    r, share = np.array([1.0, 1.4]), np.exp(-np.array([1.0, 1.4]) / 0.3)
    found = model.nearest_distance(hood).numpy()
    assert found[0] == pytest.approx((r * share).sum() / share.sum(), rel=1e-14)
    assert found[3] == 0.0
    assert model.table_weight(hood)[3] == 0.0


def test_the_wider_list_gives_the_nearest_distance():
    """The part that keeps more neighbours decides up to where they count."""
    table = PairTableConfig.tiny()
    short = table.model_copy(update={"rcut": 2.0})
    wide = ZBLModelConfig.tiny().model_copy(update={"table": short.model_copy(update={"sel": 90})})
    narrow = ZBLModelConfig.tiny().model_copy(update={"table": short.model_copy(update={"sel": 5})})
    assert (wide.nearest_cutoff, narrow.nearest_cutoff) == (2.0, 4.0)
    pair = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    for config, expected in ((wide, 0.0), (narrow, 3.0)):
        model = config.build(0)
        hood = collate([frame_graph(pair, np.array([0, 1]), None, model.neighbors)])
        np.testing.assert_allclose(model.nearest_distance(hood).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [PairTableConfig, LinearModelConfig, ZBLModelConfig])
def test_files_hold_everything(kind, tmp_path):
    model = biased(kind.tiny())
    assert read_config(kind.tiny().model_dump(mode="json")) == kind.tiny()
    path = save_model(model, tmp_path / "model.safetensors")
    assert state_digest(load_model(path)) == state_digest(model)
    structure = molecule(model.neighbors, 2, 6, seed=2)
    found, expected = (p.evaluate(**structure.as_frame()) for p in (load(path), potential_of(model)))
    assert np.array_equal(found.forces, expected.forces)
    assert load(path, dtype="float32").dtype == ("float64" if kind is PairTableConfig else "float32")


@pytest.mark.parametrize("kind", [PairTableConfig, LinearModelConfig, ZBLModelConfig])
@pytest.mark.parametrize("n_atoms", [0, 1, 2, 8])
def test_traced_graph_equals_the_model(kind, n_atoms, traced):
    program, model = traced(kind)
    structure = molecule(model.neighbors, 2, 8, seed=6)
    graph = frame_graph(structure.positions[:n_atoms], structure.types[:n_atoms], None, model.neighbors)
    hood = collate([graph])
    atomic, gradient = program(*hood.tensors())
    expected = model.derivatives(hood, 1)
    torch.testing.assert_close(atomic, expected.atomic_energy, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, expected.edge_gradient, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def traced():
    """Exported programs and their models, made once each."""
    made = {}

    def get(kind):
        if kind not in made:
            model = Subject.from_config(kind.tiny()).model
            made[kind] = trace(model, "cpu")[0].module(), model
        return made[kind]

    return get


def test_parameters_of_frames_go_to_the_parts_that_take_them():
    config = LinearModelConfig(
        type_map=("O", "H"),
        models=(learned(numb_fparam=2, default_fparam=(0.1, 0.2)), PairTableConfig.tiny(), learned()),
    )
    model = config.build(0)
    assert (model.inputs.n_fparam, model.inputs.default_fparam) == (2, (0.1, 0.2))
    structure = molecule(model.neighbors, 2, 5, seed=2)
    default, given, other = (
        potential_of(model).evaluate(**structure.as_frame(), **extra).energy
        for extra in ({}, {"fparam": [0.1, 0.2]}, {"fparam": [1.0, 0.2]})
    )
    assert default == given
    assert other != default
    with pytest.raises(ConfigError, match=r"parts take \[1, 2\] numbers of fparam"):
        LinearModelConfig(type_map=("O",), models=(learned(numb_fparam=2), learned(numb_fparam=1))).build(0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": (1.0,)}, "there are 1 weights for 2 models"),
        ({"type_map": ("O", "Cu")}, "part 0 does not know Cu"),
        ({"models": ()}, "at least 1 item"),
        ({"type_map": ("O", "O")}, "names an element twice"),
        ({"weights": "median"}, "weights"),
    ],
)
def test_wrong_settings_of_linear_models(changes, says):
    with pytest.raises(ValidationError, match=says):
        LinearModelConfig.model_validate(LinearModelConfig.tiny().model_dump() | changes)


def test_wrong_settings_of_zbl_models():
    with pytest.raises(ValidationError, match=r"sw_rmin \(2.5 Å\) must be smaller than sw_rmax \(2.5 Å\)"):
        ZBLModelConfig.model_validate(ZBLModelConfig.tiny().model_dump() | {"sw_rmin": 2.5})
    dipole = learned().model_dump() | {"fitting": {"type": "dipole"}}
    with pytest.raises(ValidationError, match="part 0 predicts 'dipole', expected 'energy'"):
        ZBLModelConfig.model_validate(ZBLModelConfig.tiny().model_dump() | {"model": dipole})
