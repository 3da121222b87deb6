"""se_e2_a: settings, and the features of a plain evaluation by the formulas."""

from __future__ import annotations

import numpy as np
import padded
import pytest
import torch
from pydantic import ValidationError

from dpsim.descriptors import SeE2AConfig
from dpsim.model.config import ModelConfig
from dpsim.model.presets import preset
from dpsim.model.statistics import environment_statistics
from dpsim.physics.neighbors import frame_graph


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sel": "auto"}, "sel.number\n.* valid integer"),
        ({"sel": []}, "sel keeps no neighbour of any type"),
        ({"sel": [3, -1]}, "greater than or equal to 0"),
        ({"sel": [0, 0]}, "sel keeps no neighbour of any type"),
        ({"sel": True}, "valid integer"),
        ({"sel": 3, "rcut": 4.0, "rcut_smth": 4.0}, r"rcut_smth \(4.0 Å\) must be smaller than rcut \(4.0 Å\)"),
        ({"sel": 3, "neuron": (4, 8), "axis_neuron": 9}, r"axis_neuron \(9\) must not exceed the last of neuron \(8\)"),
        ({}, "sel\n.*Field required"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        SeE2AConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sel": [3, 4]}, "descriptor.sel has 2 numbers, expected 3: one for each type of neighbour"),
        (
            {"sel": [3, 0, 0], "exclude_types": [[0, 0], [0, 1], [0, 2]]},
            "descriptor.exclude_types and sel leave no pair of types that see each other",
        ),
    ],
)
def test_settings_that_do_not_fit_the_elements(settings, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(type_map=("O", "H", "C"), descriptor={"type": "se_e2_a", **settings})


def test_lists_hold_the_edges_of_one_network_each():
    spec = SeE2AConfig(sel=(4, 0, 6), exclude_types=((0, 2),)).neighbors(3)
    assert (spec.cutoff, spec.sel, spec.sel_by_type) == (6.0, 10, (4, 0, 6))
    assert spec.exclude_types == ()  # an excluded neighbour is not an empty place
    assert [one.only for one in spec.inner] == [((0, 0),), ((1, 0),), ((1, 2),), ((2, 2),)]
    spec = SeE2AConfig(sel=(4, 0, 6), exclude_types=((0, 2),), type_one_side=True).neighbors(3)
    assert [one.only for one in spec.inner] == [((0, 0), (1, 0)), ((1, 2), (2, 2))]
    assert SeE2AConfig(sel=7).neighbors(1) == (6.0, 7, (7,), (), False, False, (), ())


def test_cutoff_of_a_preset():
    config = preset("se-e2-a", ("O", "H")).descriptor
    assert (config.rcut, config.rcut_smth, config.sel, config.neuron) == (6.0, 0.5, 92, (25, 50, 100))
    changed = config.with_cutoff(3.0)
    assert (changed.rcut, changed.rcut_smth, changed.sel) == (3.0, 0.25, 12)
    assert SeE2AConfig(sel=(8, 16)).with_cutoff(12.0).sel == (64, 128)


def features(module, config, positions, types, sel):
    """Features and basis by the definition (spec classic.md §1)."""
    n_types, found = len(sel), []
    for i in range(len(types)):
        r, q, start = padded.rows(module, config, positions, types, i, sel), 0.0, 0
        for t, count in enumerate(sel):
            number = t if config.type_one_side else t * n_types + types[i]
            part = r[start : start + count]
            q, start = q + part.T @ padded.network(module, number, part[:, 0]) / sum(sel), start + count
        found.append(((q.T @ q[:, : config.axis_neuron]).flatten(), q[1:].T))
    return tuple(np.array(values) for values in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("sel", "changes"),
    [
        ((20, 20), {}),
        ((20, 20), {"type_one_side": True, "exclude_types": ((0, 1),)}),
        ((20, 20), {"exclude_types": ((1, 1),), "env_protection": 0.01}),
        ((4, 5), {"resnet_dt": True, "neuron": (2, 4, 8)}),
        ((9, 0), {"type_one_side": True}),
        ((3, 4, 5), {"activation_function": "gelu"}),
        ((7,), {}),
        ((7,), {"type_one_side": True}),
    ],
)
def test_features_follow_the_definition(sel, changes):
    config = SeE2AConfig(**{"sel": sel, "rcut": 3.5, "rcut_smth": 1.0, "neuron": (3, 6), "axis_neuron": 2} | changes)
    module = padded.module_of(config, len(sel), basis=True)
    positions, types = padded.structure(14, len(sel))
    found = padded.evaluate(module, config, positions, types, len(sel))
    expected, basis = features(module, config, positions, types, sel)
    assert found.features.shape == expected.shape == (14, module.dim_out)
    assert found.basis.shape == (14, module.dim_basis, 3)
    np.testing.assert_allclose(found.features, expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found.basis, basis, rtol=1e-13, atol=1e-14)


def test_one_number_of_places_is_that_of_each_type():
    one, each = (SeE2AConfig.tiny(3).model_copy(update={"sel": sel}) for sel in (40, (40, 40, 40)))
    assert one.neighbors(3) == each.neighbors(3)
    positions, types = padded.structure(10, 3)
    graphs = [frame_graph(positions, types, None, one.neighbors(3))]
    (a,), (b,) = one.environments(), each.environments()
    for x, y in zip(environment_statistics(graphs, a, 3), environment_statistics(graphs, b, 3), strict=True):
        assert np.array_equal(x, y)


def test_statistics_of_the_trainer_reach_every_list():
    """Found by the type of the centre alone, they hold for all types of neighbours."""
    module = padded.module_of(SeE2AConfig.tiny(), 2)
    module.environment.mean.copy_(torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]]))
    assert module.environment.mean[:, :, 0].tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_number_of_networks():
    one, two = (SeE2AConfig.tiny(3).model_copy(update={"type_one_side": side}).build("OHC") for side in (True, False))
    assert (len(one.networks), len(two.networks)) == (3, 9)
