"""Energy bias and environment statistics against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.errors import DataError
from dpsim.model.statistics import Moments, composition, environment_statistics, output_bias, shared_bias
from dpsim.physics.neighbors import NeighborSpec, frame_graph


def test_composition_counts_types_without_placeholders():
    assert composition(np.array([0, 2, -1, 2]), 4).tolist() == [1, 0, 2, 0]
    assert composition(np.zeros(0, dtype=np.int64), 2).tolist() == [0, 0]


def test_energies_that_add_up_are_recovered():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (20, 3)).astype(float)
    truth = np.array([-432.1, -13.6, 2.5])
    found = output_bias(counts, counts @ truth)
    np.testing.assert_allclose(found.bias[:, 0], truth, rtol=1e-12)
    assert found.std[0, 0] < 1e-10
    assert found.n_frames == 20


def test_residual_is_the_spread_of_what_is_left():
    rng = np.random.default_rng(1)
    counts, energies = rng.integers(1, 9, (30, 2)).astype(float), rng.normal(size=30)
    found = output_bias(counts, energies)
    expected = np.linalg.solve(counts.T @ counts, counts.T @ energies)
    np.testing.assert_allclose(found.bias[:, 0], expected, rtol=1e-10)
    assert found.std[0, 0] == pytest.approx(np.std(energies - counts @ expected), rel=1e-12)


def test_one_composition_is_shared_evenly():
    """Water alone does not tell O from H: the smallest biases that give the mean are taken."""
    found = output_bias([np.array([1.0, 2.0, 0.0])] * 3, [-10.0, -11.0, -12.0])
    np.testing.assert_allclose(found.bias[:, 0], np.array([1.0, 2.0, 0.0]) * -11.0 / 5.0, atol=1e-12)


def test_excluded_types_have_no_bias():
    counts = np.array([[1.0, 2.0], [2.0, 1.0]])
    found = output_bias(counts, [3.0, 6.0], excluded=(1,))
    np.testing.assert_allclose(found.bias[:, 0], [3.0, 0.0], atol=1e-12)
    assert counts[0, 1] == 2.0  # the caller's array is left alone


def test_preset_energies_are_kept_and_the_rest_is_fitted():
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 9, (30, 3)).astype(float)
    energies = counts @ np.array([-5.0, 2.0, 1.0]) + rng.normal(size=30)
    found = output_bias(counts, energies, preset={1: 7.0})
    others = counts[:, [0, 2]]
    rest = energies - 7.0 * counts[:, 1]
    expected = np.linalg.solve(others.T @ others, others.T @ rest)
    np.testing.assert_allclose(found.bias[:, 0], [expected[0], 7.0, expected[1]], rtol=1e-10)
    assert found.std[0, 0] == pytest.approx(np.std(rest - others @ expected), rel=1e-10)
    every = output_bias(counts, energies, preset={0: 1.0, 1: 2.0, 2: 3.0})
    assert every.bias[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_no_energies():
    with pytest.raises(DataError, match="no frame of the training data has a label"):
        output_bias([], [])
    alone = output_bias(np.zeros((0, 2)), [], preset={1: 4.0})
    assert alone.bias[:, 0].tolist() == [0.0, 4.0]
    assert (alone.std[0, 0], alone.n_frames) == (0.0, 0)


def test_every_component_is_fitted_by_itself():
    rng = np.random.default_rng(3)
    counts, values = rng.integers(1, 9, (20, 2)).astype(float), rng.normal(size=(20, 3))
    found = output_bias(counts, values)
    for k in range(3):
        alone = output_bias(counts, values[:, k])
        np.testing.assert_allclose(found.bias[:, k], alone.bias[:, 0], rtol=1e-10)
        np.testing.assert_allclose(found.std[:, k], alone.std[:, 0], rtol=1e-10)


def test_means_are_fitted_to_shares_of_the_atoms_that_count():
    counts = np.array([[1.0, 2.0, 1.0], [2.0, 1.0, 3.0], [1.0, 4.0, 0.0]])
    shares = counts[:, :2] / counts[:, :2].sum(1, keepdims=True)
    found = output_bias(counts, shares @ np.array([3.0, -1.0]), excluded=(2,), mean=True)
    np.testing.assert_allclose(found.bias[:, 0], [3.0, -1.0, 0.0], atol=1e-12)


def test_a_bias_that_all_types_share():
    counts = np.array([[1.0, 2.0], [2.0, 3.0]])
    values = np.array([[3.0, 0.0], [10.0, 5.0]])
    summed, mean = shared_bias(counts, values), shared_bias(counts, values, mean=True)
    np.testing.assert_allclose(summed.bias, [[1.5, 0.5]] * 2)
    np.testing.assert_allclose(summed.std, [[0.5, 0.5]] * 2)
    np.testing.assert_allclose(mean.bias, [[6.5, 2.5]] * 2)
    np.testing.assert_allclose(mean.std, [[3.5, 2.5]] * 2)
    np.testing.assert_allclose(shared_bias(counts, values, excluded=(1,)).bias, [[4.0, 1.25]] * 2)
    with pytest.raises(DataError, match="no frame of the training data has a label"):
        shared_bias(np.zeros((0, 2)), np.zeros((0, 1)))


def test_moments_add_up():
    rng = np.random.default_rng(4)
    rows, group = rng.normal(size=(30, 2)) + 1, rng.integers(0, 2, 30)
    found = Moments.of(rows[:10], group[:10], 3).joined(Moments.of(rows[10:], group[10:], 3)).joined(None)
    for g in range(2):
        np.testing.assert_allclose(found.mean[g], rows[group == g].mean(0))
        np.testing.assert_allclose(found.std[g], rows[group == g].std(0))
    assert found.number.tolist() == [*np.bincount(group), 0]
    assert not found.mean[2].any()
    with pytest.raises(ValueError, match="found 2 numbers where other frames have 5"):
        found.joined(Moments.of(np.zeros((1, 5)), np.zeros(1, dtype=int), 3))


def dense_statistics(frames, spec, rcut_smth, n_types, protection):
    """By the definition (spec common.md §6): padded (atoms, sel, 4) arrays of one type after the other."""
    rows = [[] for _ in range(n_types)]
    for positions, types, cell in frames:
        graph = frame_graph(positions, types, cell, spec)
        for i, t in enumerate(types):
            padded = np.zeros((spec.sel, 4))
            for slot, d in enumerate(graph.displacements[graph.center == i]):
                r = np.linalg.norm(d)
                u = np.clip((r - rcut_smth) / (spec.cutoff - rcut_smth), 0, 1)
                w = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5
                padded[slot] = w * np.array([1 / (r + protection), *(d / (r + protection) ** 2)])
            rows[t].append(padded)
    mean, stddev = np.zeros((n_types, 4)), np.full((n_types, 4), 0.1)
    for t, padded in enumerate(rows):
        if padded:
            values = np.concatenate(padded)
            mean[t, 0] = values[:, 0].mean()
            stddev[t] = [max(values[:, 0].std(), 0.01)] + [max(values[:, 1:].std(), 0.01)] * 3
    return mean, stddev


@pytest.mark.parametrize("zero_mean", [True, False])
@pytest.mark.parametrize("protection", [0.0, 0.05])
@pytest.mark.parametrize("exclude", [(), ((0, 1),)])
@pytest.mark.parametrize("inner", [True, False])
def test_environment(inner, exclude, protection, zero_mean):
    rng = np.random.default_rng(2)
    spec = NeighborSpec(4.0, 60, exclude_types=exclude)
    frames = [
        (rng.uniform(0, 5, (7, 3)), rng.integers(0, 2, 7), np.eye(3) * 5.0),
        (rng.uniform(0, 4, (4, 3)), rng.integers(0, 2, 4), None),
        (np.zeros((1, 3)), np.array([3]), None),  # alone: nothing but zeros
    ]
    # the list itself; or within a wider one, in which excluded pairs stand and are left out by the block
    listed = NeighborSpec(5.0, 90, inner=(spec._replace(exclude_types=()),)) if inner else spec
    graphs = [frame_graph(*frame, listed) for frame in frames]
    block = EnvironmentBlock(
        "environment", (0,) if inner else (), 4.0, 1.0, 60, protection, zero_mean, exclude_types=exclude
    )
    found = environment_statistics(iter(graphs), block, 4)
    mean, stddev = dense_statistics(frames, spec, 1.0, 4, protection)
    np.testing.assert_allclose(found.stddev, stddev, rtol=1e-10)
    np.testing.assert_allclose(found.mean, np.zeros((4, 4)) if zero_mean else mean, rtol=1e-10)
    np.testing.assert_array_equal(found.stddev[2], 0.1)  # does not occur
    np.testing.assert_array_equal(found.stddev[3], 0.01)
