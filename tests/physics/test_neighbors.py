"""Edge lists against brute force, angles, truncation and exclusions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpsim.errors import DataError
from dpsim.physics.neighbors import (
    NeighborSpec,
    combined,
    distance_slots,
    edge_list,
    frame_graph,
    pair_indices,
    row_pointers,
)

OPEN = (False, False, False)
WITHIN = NeighborSpec(4.0, 10, inner=(NeighborSpec(3.0, 5, pairs=True, strict=True),))
FULL = (True, True, True)


def brute_force(positions, cell, periodic, cutoff):
    """Rows (centre, neighbour, displacement) of all edges, by trying every image that could be near."""
    vectors = np.zeros((0, 3)) if cell is None else cell[list(periodic)]
    span = max((np.linalg.norm(a - b) for a in positions for b in positions), default=0.0)
    reach = np.ceil((cutoff + span) * np.linalg.norm(np.linalg.pinv(vectors), axis=0)).astype(int)
    images = list(product(*(range(-n, n + 1) for n in reach)))
    shifts = np.array(images, dtype=float).reshape(len(images), len(vectors)) @ vectors
    rows = []
    for i, j in product(range(len(positions)), repeat=2):
        d = positions[j] - positions[i] + shifts
        r = np.linalg.norm(d, axis=1)
        rows += [(i, j, *x) for x in d[(r <= cutoff) & (r > 1e-9)]]
    return np.array(rows).reshape(-1, 5)


def canonical(rows):
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


@st.composite
def structures(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(1, 5))
    periodic = tuple(draw(st.lists(st.booleans(), min_size=3, max_size=3)))
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.0, 6.0, 3)) + rng.uniform(-1.0, 1.0, (3, 3))
    if draw(st.booleans()):
        cell[0] *= -1  # left-handed
    positions = rng.uniform(-1.5, 2.5, (n, 3)) @ cell
    return positions, cell, periodic, draw(st.floats(0.5, 4.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(structures())
def test_edges_are_those_of_brute_force(case):
    positions, cell, periodic, cutoff = case
    assume(abs(np.linalg.det(cell)) > 1.5)
    expected = brute_force(positions, cell, periodic, cutoff)
    r = np.linalg.norm(expected[:, 2:], axis=1)
    assume(len(r) < 5000)
    assume(np.all(np.abs(r - cutoff) > 1e-6))
    center, neighbor, d = edge_list(positions, cell, periodic, cutoff)
    assert center.dtype == neighbor.dtype == np.int64
    assert np.all(np.diff(center) >= 0)
    found = np.column_stack([center, neighbor, d])
    np.testing.assert_allclose(canonical(found), canonical(expected), atol=1e-9)


def test_order_of_edges_is_fixed():
    rng = np.random.default_rng(0)
    positions, cell = rng.uniform(0, 4, (6, 3)), np.eye(3) * 4.0
    center, neighbor, d = edge_list(positions, cell, FULL, 5.0)
    key = np.lexsort((neighbor, center))
    np.testing.assert_array_equal(key, np.arange(len(center)))
    again = edge_list(np.asfortranarray(positions), np.asfortranarray(cell), (1, 1, 1), 5.0)
    for a, b in zip((center, neighbor, d), again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_cutoff_belongs_to_the_sphere():
    positions = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    assert len(edge_list(positions, None, OPEN, 3.0)[0]) == 2
    assert len(edge_list(positions, None, OPEN, np.nextafter(3.0, 0))[0]) == 0


def test_an_atom_sees_its_own_images():
    center, neighbor, d = edge_list(np.zeros((1, 3)), np.eye(3) * 2.0, FULL, 2.0)
    assert center.tolist() == neighbor.tolist() == [0] * 6
    np.testing.assert_allclose(np.sort(np.abs(d).sum(axis=1)), 2.0)


@pytest.mark.parametrize("n", [0, 1])
def test_no_neighbors(n):
    graph = frame_graph(np.zeros((n, 3)), np.zeros(n, dtype=int), None, WITHIN)
    assert graph.n_atoms == n
    assert graph.n_edges == 0
    assert graph.displacements.shape == (0, 3)
    for array in (graph.types, graph.center, graph.neighbor, graph.inner[0].edge):
        assert array.dtype == np.int64


@pytest.mark.parametrize("far", [1e5, 1e6, 1e9, 1e200])
@pytest.mark.parametrize("periodic", [OPEN, (True, False, False), (True, True, False)])
def test_fragments_may_be_far_apart(periodic, far):
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.0, far], [0.5, 1.0, far]])
    cell = np.diag([20.0, 20.0, 1.0])
    center, neighbor, d = edge_list(positions, cell if any(periodic) else None, periodic, 3.0)
    assert list(zip(center.tolist(), neighbor.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]
    np.testing.assert_allclose(d, [[1, 1, 1], [-1, -1, -1], [0, 1, 0], [0, -1, 0]])


def test_far_fragments_in_all_directions():
    rng = np.random.default_rng(1)
    near = rng.uniform(0, 4, (5, 3))
    shifts = np.array([[0.0, 0, 0], [3e7, -2e6, 5e6], [-1e6, 4e6, 1e7]])
    moved = (near + shifts[:, None]).reshape(-1, 3)
    single, three = edge_list(near, None, OPEN, 3.0), edge_list(moved, None, OPEN, 3.0)
    for copy in range(3):
        mine = three[0] // 5 == copy
        np.testing.assert_array_equal(three[0][mine] - 5 * copy, single[0])
        np.testing.assert_array_equal(three[1][mine] - 5 * copy, single[1])


@pytest.mark.parametrize(
    ("cell", "periodic", "message"),
    [
        (None, FULL, "needs a finite 3 × 3 cell"),
        (np.full((3, 3), np.nan), FULL, "needs a finite 3 × 3 cell"),
        (np.zeros((3, 3)), FULL, "too short or parallel"),
        (np.array([[4.0, 0, 0], [8.0, 0, 0], [0, 0, 4.0]]), FULL, "too short or parallel"),
        (np.array([[4.0, 0, 0], [8.0, 0, 0], [0, 0, 4.0]]), (True, True, False), "too short or parallel"),
        (np.diag([1e-6, 4.0, 4.0]), (True, False, False), "too short or parallel"),
    ],
)
def test_cells_without_volume_are_refused(cell, periodic, message):
    with pytest.raises(DataError, match=message):
        edge_list(np.zeros((1, 3)), cell, periodic, 3.0)


def test_a_direction_that_does_not_repeat_needs_no_vector():
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    parallel = np.array([[4.0, 0, 0], [0, 4.0, 0], [4.0, 4.0, 0]])
    flat = np.diag([4.0, 4.0, 0.0])
    for cell in (parallel, flat):
        assert len(edge_list(positions, cell, (True, True, False), 2.0)[0]) == 2


def test_atoms_at_one_place_are_refused():
    with pytest.raises(DataError, match=r"atoms 1 and 2 share the position \[1\.0, 0\.0, 0\.0\]: move or remove"):
        edge_list(np.array([[0.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]]), None, OPEN, 3.0)
    with pytest.raises(DataError, match="atoms 0 and 1 share"):  # one is an image of the other
        edge_list(np.array([[0.0, 0, 0], [4.0, 0, 0]]), np.eye(3) * 4.0, FULL, 3.0)


def test_row_pointers():
    assert row_pointers(np.array([0, 0, 2, 2, 2]), 4).tolist() == [0, 2, 2, 5, 5]
    assert row_pointers(np.zeros(0, dtype=np.int64), 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize("counts", [[], [1, 0], [2, 1, 0, 3], [0, 0, 2]])
def test_pair_indices_are_all_ordered_pairs_of_a_center(counts):
    centers = np.repeat(np.arange(len(counts)), counts)
    ij, ik = pair_indices(np.array(counts, dtype=np.int64))
    expected = [(a, b) for a in range(len(centers)) for b in range(len(centers)) if centers[a] == centers[b]]
    assert list(zip(ij.tolist(), ik.tolist(), strict=True)) == expected


def test_distance_slots_rank_within_a_center():
    slots = distance_slots(np.array([0, 0, 0, 2, 2]), np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 3)
    assert slots.tolist() == [2, 0, 1, 1, 0]


def test_combined_lists_keep_their_members():
    a, b = NeighborSpec(4.0, 20, (5, 15)), NeighborSpec(3.0, 30, pairs=True)
    root = combined([a, b])
    assert root == NeighborSpec(4.0, 30, inner=(a, b))
    assert list(root.walk()) == [root, a, b]
    assert root.at(()) is root
    assert root.at((1,)) is b


@pytest.fixture
def dense():
    rng = np.random.default_rng(4)
    return rng.uniform(0, 5, (12, 3)), np.arange(12) % 3, np.eye(3) * 5.0


def listed(dense, root, spec, around):
    """Keys of the edges of a list, by the definition: sort all by distance, count places, then leave out."""
    positions, types, cell = dense
    rows = brute_force(positions, cell, FULL, root.cutoff)
    excluded = {frozenset(pair) for pair in spec.exclude_types}
    found = set()
    for i in range(len(types)):
        mine = rows[rows[:, 0] == i]
        mine = mine[np.argsort(np.linalg.norm(mine[:, 2:], axis=1))]
        seen = dict.fromkeys(range(3), 0)
        for place, row in enumerate(mine):
            t, r = types[int(row[1])], np.linalg.norm(row[2:])
            place_of_type, seen[t] = seen[t], seen[t] + 1
            keep = place < spec.sel and (r < spec.cutoff if spec.strict else r <= spec.cutoff)
            keep = keep and (not spec.sel_by_type or place_of_type < spec.sel_by_type[t])
            keep = keep and (not spec.only or (types[i], t) in spec.only)
            if keep and frozenset((types[i], t)) not in excluded:
                found.add((i, int(row[1]), *np.round(row[2:], 6)))
    return found if around is None else found & around


ANGLES = NeighborSpec(3.5, 3, strict=True, pairs=True)


@pytest.mark.parametrize(
    "spec",
    [
        NeighborSpec(4.0, 200),
        NeighborSpec(4.0, 200, inner=(NeighborSpec(3.0, 100, strict=True),)),
        NeighborSpec(4.0, 7, inner=(ANGLES,)),
        NeighborSpec(4.0, 7, exclude_types=((0, 1),), inner=(ANGLES,)),
        NeighborSpec(4.0, 200, exclude_types=((2, 2), (1, 0)), inner=(ANGLES, NeighborSpec(3.9, 8))),
        NeighborSpec(4.0, 9, (2, 4, 3)),
        NeighborSpec(4.0, 100, (2, 0, 30), inner=(NeighborSpec(4.0, 100, only=((0, 2), (2, 0), (2, 2))),)),
        NeighborSpec(4.0, 20, inner=(NeighborSpec(3.6, 12, (4, 4, 4), ((0, 0),), inner=(NeighborSpec(3.0, 5),)),)),
    ],
)
def test_lists_hold_the_edges_of_their_definition(dense, spec):
    graph = frame_graph(*dense, spec)
    rows = zip(graph.center, graph.neighbor, graph.displacements, strict=True)
    keys = [(int(i), int(j), *np.round(d, 6)) for i, j, d in rows]

    def check(one, path, around):
        expected = listed(dense, spec, one, around)
        at = graph.edges_at(path)
        assert np.all(np.diff(at) > 0)
        assert {keys[e] for e in at} == expected
        assert len(at) == len(expected)
        for k, inner in enumerate(one.inner):
            check(inner, (*path, k), expected)

    check(spec, (), None)


def test_frames_may_be_lists_and_views(dense):
    positions, types, cell = dense
    spec = NeighborSpec(4.0, 7, exclude_types=((0, 1),), inner=(ANGLES,))
    expected = frame_graph(positions, types, cell, spec)
    wide = np.zeros((12, 6))
    wide[:, ::2] = positions
    for p, t in ((positions.tolist(), types.tolist()), (wide[:, ::2], types.astype(np.int32))):
        found = frame_graph(p, t, cell, spec)
        for name in ("types", "displacements", "center", "neighbor"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_array_equal(found.inner[0].edge, expected.inner[0].edge)
