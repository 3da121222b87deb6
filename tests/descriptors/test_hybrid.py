"""Hybrids: which neighbours each member sees, and what they give together."""

from __future__ import annotations

import json

import numpy as np
import padded
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dpsim.descriptors import DescriptorConfig, DPA1Config, DPA3Config, HybridConfig, SeE2AConfig, SeE2RConfig
from dpsim.errors import ConfigError
from dpsim.physics.neighbors import NeighborSpec

A = {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 1.0, "sel": [6, 9], "neuron": [3, 6], "axis_neuron": 2}
R = {"type": "se_e2_r", "rcut": 3.0, "rcut_smth": 1.0, "sel": [8, 4], "neuron": [3, 6]}
DPA1 = {"type": "dpa1", "rcut": 3.0, "rcut_smth": 1.0, "sel": 12, "smooth_type_embedding": True}


def hybrid(*members):
    return HybridConfig.model_validate({"list": members})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "list names no descriptor"),
        ([A, R | {"env_protection": 0.1}], r"env_protection must be the same in all members: found \[0.0, 0.1\]"),
        ([{"type": "se_e2"}], "does not match any of the expected tags"),
        ([{"type": "hybrid", "list": [{"type": "se_e2_a", "sel": -1}]}], r"list.0.hybrid.list.0.se_e2_a.sel.number"),
    ],
)
def test_wrong_settings(members, message):
    with pytest.raises(ValidationError, match=message):
        hybrid(*members)


def test_settings_survive_json():
    config, adapter = hybrid(A, {"type": "hybrid", "list": [R, {}]}), TypeAdapter(DescriptorConfig)
    assert isinstance(config.list[1].list[1], DPA3Config)  # what is meant where no type is written
    assert adapter.validate_json(json.dumps(config.model_dump(mode="json"))) == config
    schema = adapter.json_schema()
    assert {"HybridConfig", "SeE2AConfig"} <= set(schema["$defs"])


def outer(spec):
    return spec.cutoff, spec.sel, spec.sel_by_type


def test_typed_members_share_the_places_of_the_hybrid():
    spec = hybrid(A, R).neighbors(2)
    assert outer(spec) == (4.0, 17, (8, 9))
    assert [outer(one) for one in spec.inner] == [(4.0, 17, (6, 9)), (3.0, 17, (8, 4))]
    assert {one.sel for one in spec.walk()} == {17}


def test_typed_members_beside_mixed_ones_take_from_the_nearest_of_any_type():
    spec = hybrid(DPA1, A, R).neighbors(2)
    assert outer(spec) == (4.0, 15, ())
    assert [outer(one) for one in spec.inner] == [(3.0, 12, ()), (4.0, 15, (6, 9)), (3.0, 15, (8, 4))]


@pytest.mark.parametrize(
    ("member", "sees"),
    [
        (R, False),
        (R | {"exclude_types": [[0, 1]]}, True),
        (DPA1, False),
        (DPA1 | {"smooth_type_embedding": False}, True),
        (DPA1 | {"set_davg_zero": False}, True),
        ({"type": "hybrid", "list": [R | {"exclude_types": [[0, 1]]}]}, True),
    ],
)
def test_members_see_beyond_their_cutoff_where_it_matters(member, sees):
    """There an excluded neighbour differs from an empty place, and attention that is not smooth sees the others."""
    spec = hybrid(A, member).neighbors(2)
    assert spec.inner[1].cutoff == (4.0 if sees else 3.0)


def test_nested_hybrids_see_the_places_of_the_outermost():
    inside = {"type": "hybrid", "list": [R | {"exclude_types": [[0, 1]]}, R | {"sel": [1, 1], "rcut": 2.0}]}
    spec = hybrid(A, inside).neighbors(2).inner[1]
    assert outer(spec) == (4.0, 17, (8, 4))
    assert [outer(one) for one in spec.inner] == [(4.0, 17, (8, 4)), (2.0, 17, (1, 1))]


def test_features_are_those_of_the_members():
    config = hybrid(A | {"sel": [30, 30]}, R | {"sel": [30, 30]})
    module = padded.module_of(config, 2, basis=True)
    positions, types = padded.structure(12, 2)
    found = padded.evaluate(module, config, positions, types, 2)
    members = [
        padded.evaluate(member, one, positions, types, 2)
        for member, one in zip(module.members, config.list, strict=True)
    ]
    assert torch.equal(found.features, torch.cat([one.features for one in members], dim=1))
    assert found.features.shape[1] == module.dim_out == 12 + 6
    assert torch.equal(found.basis, members[0].basis)
    assert module.dim_basis == 6


def test_truncated_members_follow_the_definition():
    """The nearest 17 of any type, the first (8, 9) of each type, and of these the member's own number."""
    config = hybrid(A, R | {"exclude_types": [[0, 1]]})
    module = padded.module_of(config, 2)
    positions, types = padded.structure(27, 2)
    found = padded.evaluate(module, config, positions, types, 2).features[:, 12:]
    radial, member = config.list[1], module.members[1]
    expected = []
    for i in range(len(types)):
        distant = radial.model_copy(update={"rcut": 4.0})  # places are counted within the hybrid's cutoff
        slots = padded.places(distant, positions, types, i, (8, 9))
        kept = slots[:8] + slots[8 : 8 + 4]
        total = 0.0
        for j, t in kept:
            row = -member.environment.mean[t, types[i], 0]
            if j >= 0 and t != types[i]:
                row = 0.0 * row
            elif j >= 0:
                r = np.linalg.norm(positions[j] - positions[i])
                row = row + padded.switch(r, 1.0, 3.0) / r
            total = total + padded.network(member, t, [float(row / member.environment.stddev[t, types[i], 0])])[0]
        expected.append(total / (5 * 12))
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-13, atol=1e-14)


def test_one_precision_is_given_to_all_members():
    config = hybrid(A, R)
    single = config.model_copy(update={"precision": "float32"})
    assert (config.precision, single.precision) == ("float64", "float32")
    assert {member.precision for member in single.list} == {"float32"}
    assert config.model_copy(update={"list": single.list}) == single


def test_cutoffs_are_scaled_alike():
    changed = hybrid(A, R, {}).with_cutoff(12.0)  # that of DPA-3 is 6 Å
    assert [member.rcut for member in changed.list[:2]] == [8.0, 6.0]
    assert changed.rcut == changed.list[2].repflow.e_rcut == 12.0


def test_directions_come_from_those_who_have_any():
    assert hybrid(R, A).build("OH", basis=True).dim_basis == 6
    with pytest.raises(ConfigError, match="descriptor 'se_e2_r' gives no directions"):
        hybrid(R, R).build("OH", basis=True)


def test_what_the_model_asks():
    config = hybrid(A | {"exclude_types": [[0, 1]]}, {}, DPA1)
    assert config.message_passing_layers == DPA3Config().message_passing_layers
    assert config.mixed_types
    assert not hybrid(A, R).mixed_types
    assert config.exclude_types == ((0, 1),)
    assert not config.takes_charge_spin
    blocks = config.environments()
    assert [(block.module, block.path) for block in blocks] == [
        ("members.0.environment", (0,)),
        ("members.1.environment", (1,)),
        ("members.2.embedding.environment", (2,)),
    ]
    assert isinstance(config.neighbors(2), NeighborSpec)
    assert isinstance(config.list[2], DPA1Config)
    assert SeE2AConfig.tiny() in HybridConfig.tiny().list
    assert SeE2RConfig.tiny() not in HybridConfig.tiny().list
