"""loc_frame: settings, the numbers of its definition, and what it keeps of the symmetries."""

from __future__ import annotations

import numpy as np
import padded
import pytest
import torch
from pydantic import ValidationError

from dpsim.descriptors import LocFrameConfig
from dpsim.errors import ConfigError
from dpsim.model.config import ModelConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.testing import Subject
from dpsim.testing.structures import random_rotation
from dpsim.train.start.component_scales import set_component_scales

RULE = (0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0)
"""Type 0: nearest of type 1, second radial one of type 0; type 1: second nearest of type 0, nearest of type 1."""
CONFIG = LocFrameConfig(rcut=4.0, sel_a=(2, 3), sel_r=(4, 1), axis_rule=RULE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axis_rule": ()}, "axis_rule has 0 numbers, expected 6 for each type"),
        ({"axis_rule": (0,) * 7}, "axis_rule has 7 numbers, expected 6 for each type"),
        ({"sel_a": 0}, "greater than 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        LocFrameConfig(**{"sel_a": 2, "axis_rule": RULE} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sel_a": (2, 3, 4)}, "descriptor.sel_a has 3 numbers, expected 2"),
        ({"sel_r": (2, 3, 4)}, "descriptor.sel_r has 3 numbers, expected 2"),
        ({"axis_rule": RULE[:6]}, "descriptor.axis_rule has 6 numbers, expected 12"),
        ({"sel_r": 0}, "axis_rule of type 0: class 1, type 0, rank 1 is no neighbour that sel_a"),
        ({"axis_rule": (0, 2, 0, *RULE[3:])}, "axis_rule of type 0: class 0, type 2, rank 0 is no neighbour"),
        ({"axis_rule": (0, 0, 0, 0, 0, 0, *RULE[6:])}, r"both axes are given by the same atom \[0, 0, 0\]"),
    ],
)
def test_settings_that_do_not_fit_the_elements(settings, message):
    descriptor = {"type": "loc_frame", "sel_a": (2, 3), "sel_r": (4, 1), "axis_rule": RULE} | settings
    with pytest.raises(ValidationError, match=message):
        ModelConfig(type_map=("O", "H"), descriptor=descriptor)


def test_there_are_no_directions():
    with pytest.raises(ConfigError, match="descriptor 'loc_frame' gives no directions"):
        CONFIG.build("OH", basis=True)


def test_cutoff_of_the_same_density():
    assert CONFIG.with_cutoff(8.0) == CONFIG.model_copy(update={"rcut": 8.0, "sel_a": (16, 24), "sel_r": (32, 8)})


def numbers(positions, types, i):
    """Features of one atom by the definition, for `CONFIG`."""
    d = positions - positions[i]
    r = np.linalg.norm(d, axis=1)
    near = {t: [j for j in np.argsort(r) if types[j] == t and j != i and r[j] <= CONFIG.rcut] for t in (0, 1)}
    full = {t: near[t][: CONFIG.sel_a[t]] for t in near}
    radial = {t: near[t][CONFIG.sel_a[t] :][: CONFIG.sel_r[t]] for t in near}
    rule = RULE[6 * types[i] : 6 * types[i] + 6]
    axes = [(full, radial)[kind][t][rank : rank + 1] for kind, t, rank in (rule[:3], rule[3:])]
    frame = np.zeros((3, 3))
    if all(axes):
        a, b = d[axes[0][0]], d[axes[1][0]]
        x = a / np.linalg.norm(a)
        y = b - b @ x * x
        y /= np.linalg.norm(y)
        frame = np.array([np.cross(x, y), x, y])
    rows = [np.zeros((CONFIG.sel_a[t], 4)) for t in (0, 1)]
    for t, found in full.items():
        for k, j in enumerate(found):
            rows[t][k] = [1 / r[j], *(frame @ d[j] / r[j] ** 2)]
    tails = [np.zeros(CONFIG.sel_r[t]) for t in (0, 1)]
    for t, found in radial.items():
        tails[t][: len(found)] = 1 / r[found]
    return np.concatenate([rows[0].flatten(), rows[1].flatten(), *tails])


@pytest.mark.parametrize("n_atoms", [1, 2, 3, 5, 14, 27])
def test_features_follow_the_definition(n_atoms):
    module = CONFIG.build("OH")
    module.mean.copy_(torch.linspace(0, 1, module.mean.numel()).reshape(module.mean.shape))
    module.stddev.copy_(module.mean + 0.5)
    positions, types = padded.structure(n_atoms, 2, seed=n_atoms)
    found = padded.evaluate(module, CONFIG, positions, types, 2).features
    raw = np.array([numbers(positions, types, i) for i in range(n_atoms)])
    expected = (raw - module.mean.numpy()[types]) / module.stddev.numpy()[types]
    assert found.shape == (n_atoms, module.dim_out) == (n_atoms, 4 * 5 + 5)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert n_atoms < 27 or np.all(raw[:, :20].any(axis=0))  # every full slot is filled for some atom


def test_atoms_in_line_span_no_frame():
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.2, 0, 0], [3.5, 0, 0]])
    graph = frame_graph(positions, np.array([1, 0, 0, 1]), None, CONFIG.neighbors(2))
    hood = collate([graph])
    hood = hood._replace(displacements=hood.displacements.requires_grad_(True))
    features = CONFIG.build("OH")(hood).features
    (slope,) = torch.autograd.grad(features.sum(), hood.displacements)
    directions = features[0, : 4 * 5].reshape(5, 4)[:, 1:]
    assert not directions.any()
    assert torch.isfinite(slope).all()


@pytest.fixture(scope="module")
def subject():
    settings = {"type_map": ("O", "H"), "descriptor": CONFIG.model_dump(), "fitting": {"neuron": (8, 8)}}
    return Subject.from_config(ModelConfig.model_validate(settings))


@pytest.mark.parametrize("n_atoms", [4, 9, 27])
def test_symmetries_that_hold(subject, n_atoms):
    rng = np.random.default_rng(n_atoms)
    positions, types = padded.structure(n_atoms, 2, seed=n_atoms)
    q, order = random_rotation(rng), rng.permutation(n_atoms)
    before = subject.potential.evaluate(positions=positions, types=types)
    turned = subject.potential.evaluate(positions=positions @ q.T + 3.0, types=types)
    permuted = subject.potential.evaluate(positions=positions[order], types=types[order])
    subject.agree("energy, turned", turned.atomic_energy, before.atomic_energy)
    subject.agree("forces, turned", turned.forces, before.forces @ q.T)
    subject.agree("energy, permuted", permuted.atomic_energy, before.atomic_energy[order])
    subject.agree("forces, permuted", permuted.forces, before.forces[order])


def test_mirror_images_differ(subject):
    positions, types = padded.structure(27, 2)
    a, b = (subject.potential.evaluate(positions=s * positions, types=types).energy for s in (1, -1))
    assert abs(a - b) > 1e-3


def test_scales_of_all_components():
    model = ModelConfig.model_validate({"type_map": ("O", "H", "C"), "descriptor": LocFrameConfig.tiny(3)}).build()
    model.descriptor.mean.fill_(7.0)
    structures = [padded.structure(20, 2, seed=seed) for seed in range(3)]
    graphs = [frame_graph(p, t, None, model.neighbors) for p, t in structures]
    assert set_component_scales(model, iter(graphs)) == ["descriptor"]
    raw = model.descriptor.numbers(collate(graphs)).detach().numpy()
    types = np.concatenate([t for _, t in structures])
    for t in (0, 1):
        mine = raw[types == t]
        np.testing.assert_allclose(model.descriptor.mean[t], mine.mean(0), rtol=0, atol=1e-14)
        np.testing.assert_allclose(model.descriptor.stddev[t], np.maximum(mine.std(0), 0.01), rtol=0, atol=1e-12)
    assert torch.all(model.descriptor.mean[2] == 0)
    assert torch.all(model.descriptor.stddev[2] == 1)


def test_other_descriptors_need_no_frames():
    assert set_component_scales(ModelConfig.tiny().build(), iter([None])) == []
