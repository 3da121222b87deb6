"""se_e3: lists, and the features of a plain evaluation by the formulas."""

from __future__ import annotations

import itertools

import numpy as np
import padded
import pytest

from dpsim.descriptors import SeE3Config
from dpsim.errors import ConfigError


def test_lists_hold_the_neighbours_of_two_types_each():
    spec = SeE3Config(sel=(4, 6)).neighbors(2)
    assert (spec.sel, spec.sel_by_type, spec.pairs) == (10, (4, 6), False)
    assert all(one.pairs for one in spec.inner)
    assert [one.only for one in spec.inner] == [
        ((0, 0), (1, 0)),
        ((0, 0), (0, 1), (1, 0), (1, 1)),
        ((0, 1), (1, 1)),
    ]
    spec = SeE3Config(sel=(4, 6), exclude_types=((0, 1),)).neighbors(2)
    assert [one.only for one in spec.inner] == [((0, 0),), ((1, 1),)]
    assert SeE3Config(sel=6).neighbors(1) == (6.0, 6, (6,), (), True, False, (), ())


def test_there_are_no_directions():
    with pytest.raises(ConfigError, match="descriptor 'se_e3' gives no directions"):
        SeE3Config.tiny().build(("O", "H"), basis=True)


@pytest.mark.parametrize(
    ("sel", "changes"),
    [
        ((20, 20), {}),
        ((20, 20), {"exclude_types": ((0, 1),), "resnet_dt": True}),
        ((4, 3), {"exclude_types": ((0, 0),)}),
        ((9, 0), {}),
        ((3, 4, 5), {"activation_function": "softplus", "env_protection": 0.01}),
        ((6,), {}),
    ],
)
def test_features_follow_the_definition(sel, changes):
    config = SeE3Config(**{"sel": sel, "rcut": 3.5, "rcut_smth": 1.0, "neuron": (3, 6)} | changes)
    module = padded.module_of(config, len(sel))
    positions, types = padded.structure(14, len(sel))
    found = padded.evaluate(module, config, positions, types, len(sel))
    ends, expected = np.concatenate([[0], np.cumsum(sel)]), []
    for i in range(14):
        vectors, total = padded.rows(module, config, positions, types, i, sel)[:, 1:], np.zeros(6)
        for a, b in itertools.combinations_with_replacement(range(len(sel)), 2):
            if sel[a] and sel[b]:
                theta = (vectors[ends[a] : ends[a + 1]] @ vectors[ends[b] : ends[b + 1]].T).flatten()
                total += theta @ padded.network(module, SeE3Config.network(a, b), theta) / (sel[a] * sel[b])
        expected.append(total)
    np.testing.assert_allclose(found.features, np.array(expected), rtol=1e-13, atol=1e-14)
