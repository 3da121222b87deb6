"""se_e2_r: lists, and the features of a plain evaluation by the formulas."""

from __future__ import annotations

import numpy as np
import padded
import pytest

from dpsim.descriptors import SeE2RConfig
from dpsim.errors import ConfigError


def test_lists_hold_the_neighbours_of_one_type_each():
    spec = SeE2RConfig(sel=(4, 6), exclude_types=((0, 1),)).neighbors(2)
    assert (spec.sel, spec.sel_by_type) == (10, (4, 6))
    assert [one.only for one in spec.inner] == [((0, 0),), ((1, 1),)]
    assert spec.exclude_types == ()


def test_there_are_no_directions():
    with pytest.raises(ConfigError, match="descriptor 'se_e2_r' gives no directions"):
        SeE2RConfig.tiny().build(("O", "H"), basis=True)


@pytest.mark.parametrize(
    ("sel", "changes"),
    [
        ((20, 20), {}),
        ((20, 20), {"exclude_types": ((0, 1), (1, 1)), "resnet_dt": True}),
        ((4, 3), {"exclude_types": ((0, 1),)}),
        ((9, 0), {}),
        ((3, 4, 5), {"activation_function": "softplus", "env_protection": 0.01}),
        ((6,), {}),
    ],
)
@pytest.mark.parametrize("means", [True, False])
def test_features_follow_the_definition(sel, changes, means):
    config = SeE2RConfig(**{"sel": sel, "rcut": 3.5, "rcut_smth": 1.0, "neuron": (3, 6)} | changes)
    module = padded.module_of(config, len(sel), means=means)
    positions, types = padded.structure(14, len(sel))
    found = padded.evaluate(module, config, positions, types, len(sel))
    expected = []
    for i in range(14):
        r, total, start = padded.rows(module, config, positions, types, i, sel), 0.0, 0
        for t, count in enumerate(sel):
            total = total + padded.network(module, t, r[start : start + count, 0]).sum(0)
            start += count
        expected.append(total / (5 * sum(sel)))
    assert found.basis is None
    np.testing.assert_allclose(found.features, np.array(expected), rtol=1e-13, atol=1e-14)
