"""The plugin's neighbourhood, by loops and by the tensor operations of GPUs, against brute force in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from native_graph import NativeGraph, load, piece_ends

from dpsim.physics.neighbors import NeighborSpec

pytestmark = pytest.mark.lammps

N_TYPES = 3


def _atoms(n_atoms: int, n_centers: int, seed: int) -> dict[str, np.ndarray]:
    """Scattered points: the first are centres, others are remote, images of rows, or not of the model."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 6.5, (n_atoms, 3))
    row = np.full(n_atoms, -1, dtype=np.int64)
    centers = np.sort(rng.permutation(n_atoms)[:n_centers])
    row[centers] = np.arange(n_centers)
    others = np.flatnonzero(row < 0)
    n_rows = n_centers + 5 if n_atoms > n_centers else n_centers
    if n_rows:
        row[others] = rng.integers(-1, n_rows, len(others))
    types = rng.integers(0, N_TYPES, n_rows)
    return {"positions": positions, "row": row, "centers": centers, "row_types": types}


def _neighbors(atoms: dict[str, np.ndarray], skin_cutoff: float) -> list[np.ndarray]:
    x = atoms["positions"]
    r = np.sqrt(((x[None] - x[:, None]) ** 2).sum(-1))
    rng = np.random.default_rng(0)
    return [rng.permutation(np.flatnonzero((r[i] < skin_cutoff) & (np.arange(len(x)) != i))) for i in range(len(x))]


class BruteForce:
    """The rules of the exported graph, one atom at a time."""

    def __init__(self, spec: NeighborSpec, atoms: dict[str, np.ndarray], neighbors: list[np.ndarray]) -> None:
        x, row, types = atoms["positions"], atoms["row"], atoms["row_types"]
        self.edges: list[tuple[int, int, int]] = []  # centre, atom at the far end, its row
        self.vectors: list[np.ndarray] = []
        self.counts: dict[tuple[int, ...], list[int]] = {}  # edges of each centre, by the path of a list
        self.members: dict[tuple[int, ...], list[int]] = {}  # edges of inner lists, as positions in that around
        for c, i in enumerate(atoms["centers"]):
            near = [(j, float(np.linalg.norm(x[j] - x[i])), int(types[row[j]])) for j in neighbors[i] if row[j] >= 0]
            near = [one for one in near if _within(spec, one[1])]
            order = sorted(near, key=lambda one: one[1])
            place = {j: k for k, (j, _, _) in enumerate(order)}
            place_in_type = {j: sum(u == t for _, _, u in order[: place[j]]) for j, _, t in near}
            places = {j: (place[j], place_in_type[j]) for j, _, _ in near}
            kept = [one for one in near if _keeps(spec, one, places, int(types[c]))]
            first = len(self.edges)
            self.edges += [(c, j, int(row[j])) for j, _, _ in kept]
            self.vectors += [x[j] - x[i] for j, _, _ in kept]
            self._count((), len(kept))
            numbered = [(first + k, one) for k, one in enumerate(kept)]
            self._fill_inner(spec, (), numbered, places, int(types[c]))
        self.atoms, self.spec = atoms, spec

    def _count(self, path: tuple[int, ...], n: int) -> None:
        self.counts.setdefault(path, []).append(n)

    def _fill_inner(self, spec, path, around, places, type_of_center: int) -> None:
        for k, one in enumerate(spec.inner):
            mine = self.members.setdefault((*path, k), [])
            chosen = [(position, edge) for position, edge in around if _keeps(one, edge, places, type_of_center)]
            numbered = [(len(mine) + n, edge) for n, (_, edge) in enumerate(chosen)]
            mine += [position for position, _ in chosen]
            self._count((*path, k), len(chosen))
            self._fill_inner(one, (*path, k), numbered, places, type_of_center)

    def fields(self) -> list[np.ndarray]:
        """In the order of the model's inputs."""
        types, n = self.atoms["row_types"], len(self.atoms["centers"])
        center, _, neighbor = np.array(self.edges, dtype=np.int64).reshape(-1, 3).T
        vectors = np.array(self.vectors).reshape(-1, 3)
        start = [vectors, types[:n], types, np.zeros(n, dtype=np.int64), center, neighbor]
        return [*start, *self._list(self.spec, ())]

    def _list(self, spec: NeighborSpec, path: tuple[int, ...]) -> list[np.ndarray]:
        counts = self.counts.get(path, [])
        out = [np.array(self.members.get(path, []), dtype=np.int64)] if path else []
        out.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        if spec.pairs:
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
            blocks = [range(s, s + n) for s, n in zip(starts, counts, strict=False)]
            pairs = np.array([(j, k) for block in blocks for j in block for k in block], dtype=np.int64).reshape(-1, 2)
            per_edge = [len(block) for block in blocks for _ in block]
            out += [pairs[:, 0], pairs[:, 1], np.concatenate([[0], np.cumsum(per_edge)]).astype(np.int64)]
        for k, one in enumerate(spec.inner):
            out += self._list(one, (*path, k))
        return out


def _within(spec: NeighborSpec, r: float) -> bool:
    return r < spec.cutoff if spec.strict else r <= spec.cutoff


def _keeps(spec: NeighborSpec, edge, places, type_of_center: int) -> bool:
    j, r, t = edge
    pair = (type_of_center, t)
    return (
        _within(spec, r)
        and places[j][0] < spec.sel
        and (not spec.sel_by_type or places[j][1] < spec.sel_by_type[t])
        and (not spec.only or pair in spec.only)
        and pair not in spec.exclude_types
        and pair[::-1] not in spec.exclude_types
    )


ANGLES = NeighborSpec(2.5, 4, pairs=True, strict=True)
SPECS = {
    "plain": NeighborSpec(3.0, 200, inner=(NeighborSpec(2.0, 100, pairs=True, strict=True),)),
    "sel exceeded": NeighborSpec(3.0, 9, inner=(ANGLES,)),
    "exclusions after places": NeighborSpec(3.0, 9, exclude_types=((0, 1), (2, 2)), inner=(ANGLES,)),
    "one list": NeighborSpec(2.0, 50),
    "pairs of the outermost": NeighborSpec(2.2, 12, pairs=True),
    "by type": NeighborSpec(3.0, 30, sel_by_type=(3, 200, 5)),
    "by type, unlimited": NeighborSpec(3.0, 900, sel_by_type=(300, 300, 300), inner=(ANGLES,)),
    "two levels": NeighborSpec(
        3.5, 40, inner=(NeighborSpec(3.0, 20, exclude_types=((0, 2),), inner=(ANGLES, NeighborSpec(2.0, 8))),)
    ),
    "side by side": NeighborSpec(
        3.2, 60, inner=(NeighborSpec(2.4, 6, sel_by_type=(2, 3, 2)), NeighborSpec(3.2, 60, sel_by_type=(60, 0, 7)))
    ),
    "given pairs": NeighborSpec(3.0, 60, inner=(NeighborSpec(3.0, 20, only=((0, 1), (2, 2)), pairs=True),)),
    "no pairs at all": NeighborSpec(3.0, 60, inner=(NeighborSpec(3.0, 20, only=((-1, -1),), pairs=True),)),
    "inner excluded": NeighborSpec(3.0, 60, inner=(NeighborSpec(3.0, 12, exclude_types=((1, 1),)),)),
    "nothing near": NeighborSpec(
        0.01, 50, exclude_types=((0, 1),), inner=(NeighborSpec(0.005, 5, pairs=True, strict=True),)
    ),
}
SIZES = {"many": (70, 40), "one": (1, 1), "no centers": (12, 0), "nothing": (0, 0)}


@pytest.fixture(scope="module")
def library(plugin: Path):
    return load(plugin)


@pytest.mark.parametrize("tensor_path", [False, True], ids=["loops", "tensors"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SPECS)
def test_graph_follows_the_rules(name: str, size: str, tensor_path: bool, library) -> None:
    spec, atoms = SPECS[name], _atoms(*SIZES[size], seed=3)
    neighbors = _neighbors(atoms, spec.cutoff + 0.7)
    graph = NativeGraph(library, spec, N_TYPES, **atoms, neighbors=neighbors, tensor_path=tensor_path)
    brute_force = BruteForce(spec, atoms, neighbors)
    _compare_fields(graph, brute_force)
    if size == "many" and name not in ("nothing near", "no pairs at all"):
        assert all(sum(counts) > 20 for counts in brute_force.counts.values())
    vectors = brute_force.fields()[0]
    gradient = np.random.default_rng(1).normal(size=vectors.shape)
    forces, virial, atom_virial, _ = graph.scatter(gradient)
    graph.close()
    np.testing.assert_allclose(forces, _forces(brute_force, gradient), rtol=0, atol=1e-12)
    np.testing.assert_allclose(virial, -gradient.T @ vectors, rtol=0, atol=1e-12)
    on_neighbors = np.zeros((len(atoms["positions"]), 3, 3))
    far = [j for _, j, _ in brute_force.edges]
    np.add.at(on_neighbors, far, -gradient[:, :, None] * vectors[:, None, :])
    np.testing.assert_allclose(atom_virial, on_neighbors, rtol=0, atol=1e-12)


def _compare_fields(graph: NativeGraph, brute_force: BruteForce) -> None:
    found, expected = graph.fields(), brute_force.fields()
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-15)
    for k in range(1, len(expected)):
        np.testing.assert_array_equal(found[k], expected[k], err_msg=f"input {k}")


def _forces(graph: BruteForce, gradient: np.ndarray) -> np.ndarray:
    forces, centers = np.zeros_like(graph.atoms["positions"]), graph.atoms["centers"]
    for (c, j, _), g in zip(graph.edges, gradient, strict=True):
        forces[centers[c]] += g
        forces[j] -= g
    return forces


def test_truncation_and_exclusion_matter() -> None:
    """The systems above have more neighbours than the lists keep, and excluded ones among the nearest."""
    atoms = _atoms(*SIZES["many"], seed=3)
    neighbors = _neighbors(atoms, 3.7)
    for name in ("sel exceeded", "by type", "two levels", "side by side", "given pairs", "inner excluded"):
        spec = SPECS[name]
        free = spec._replace(
            sel=999, sel_by_type=(), inner=tuple(i._replace(sel=999, sel_by_type=()) for i in spec.inner)
        )
        assert BruteForce(free, atoms, neighbors).counts != BruteForce(spec, atoms, neighbors).counts, name
    spec = SPECS["exclusions after places"]
    late = BruteForce(spec, atoms, neighbors).counts[()]
    assert sum(late) < min(sum(BruteForce(s, atoms, neighbors).counts[()]) for s in (SPECS["sel exceeded"],))
    assert max(late) <= 9


@pytest.mark.parametrize("tensor_path", [False, True], ids=["loops", "tensors"])
@pytest.mark.parametrize("size", ["many", "one", "nothing"])
def test_doubled_system(size: str, tensor_path: bool, library) -> None:
    """Virtual atoms are atoms like others, and forces and virials come back to those that they belong to."""
    atoms = _atoms(*SIZES[size], seed=4)
    n, n_centers, n_rows = len(atoms["positions"]), len(atoms["centers"]), len(atoms["row_types"])
    rng = np.random.default_rng(5)
    offsets = rng.uniform(-0.4, 0.4, (n, 3)) * rng.integers(0, 2, (n, 1))
    remote = np.arange(n_rows - n_centers)
    virtual_rows = np.concatenate([n_centers + np.arange(n_centers), n_rows + n_centers + remote])
    real_rows = np.concatenate([np.arange(n_centers), 2 * n_centers + remote])
    row_types = np.empty(2 * n_rows, dtype=np.int64)
    row_types[real_rows], row_types[virtual_rows] = atoms["row_types"], atoms["row_types"] + N_TYPES
    outside = atoms["row"] < 0
    row = np.concatenate([np.where(outside, -1, rows[np.where(outside, 0, atoms["row"])]) if n_rows else atoms["row"]
                          for rows in (real_rows, virtual_rows)])  # fmt: skip
    doubled = {
        "positions": np.concatenate([atoms["positions"], atoms["positions"] + offsets]), "row": row,
        "centers": np.concatenate([atoms["centers"], atoms["centers"] + n]), "row_types": row_types,
    }  # fmt: skip
    spec = NeighborSpec(2.0, 25, sel_by_type=(9, 9, 9, 5, 5, 5), exclude_types=((0, 3), (4, 4)), inner=(ANGLES,))
    listed = _neighbors(atoms, 2.0 + 2 * 0.7 + 0.3)
    graph = NativeGraph(
        library, spec, 2 * N_TYPES, positions=atoms["positions"], row=row, row_types=row_types,
        centers=atoms["centers"], neighbors=listed, offsets=offsets, tensor_path=tensor_path,
    )  # fmt: skip
    everything = [np.concatenate([[i + n], a, a + n]) for i, a in enumerate(listed)]
    everything += [np.concatenate([[i], a, a + n]) for i, a in enumerate(listed)]
    brute_force = BruteForce(spec, doubled, [e.astype(int) for e in everything])
    _compare_fields(graph, brute_force)

    vectors = brute_force.fields()[0]
    gradient = rng.normal(size=vectors.shape)
    forces, virial, atom_virial, on_virtual = graph.scatter(gradient)
    graph.close()
    whole = _forces(brute_force, gradient)
    np.testing.assert_allclose(on_virtual, whole[n:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(forces, whole[:n] + whole[n:], rtol=0, atol=1e-12)
    shift = np.concatenate([np.zeros((n, 3)), offsets])
    ends = np.array([(doubled["centers"][c], j) for c, j, _ in brute_force.edges], dtype=int).reshape(-1, 2)
    bare = vectors - (shift[ends[:, 1]] - shift[ends[:, 0]])
    np.testing.assert_allclose(virial, -gradient.T @ bare, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atom_virial.sum(0), virial, rtol=0, atol=1e-11)
    if size == "many":
        assert np.abs(on_virtual).max() > 1


@pytest.mark.parametrize("tensor_path", [False, True], ids=["loops", "tensors"])
@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("name", SPECS)
def test_pieces_are_the_whole(name: str, size: int, tensor_path: bool, library) -> None:
    """Each piece is the graph of its centres alone, whose neighbours are told by type; sums are those of all."""
    spec, atoms = SPECS[name], _atoms(*SIZES["many"], seed=3)
    neighbors, n = _neighbors(atoms, spec.cutoff + 0.7), len(atoms["centers"])
    whole = BruteForce(spec, atoms, neighbors)
    graph = NativeGraph(library, spec, N_TYPES, **atoms, neighbors=neighbors, tensor_path=tensor_path)
    gradient = np.random.default_rng(1).normal(size=(len(whole.edges), 3))
    done = 0
    for first in range(0, n, size):
        end = min(first + size, n)
        own = atoms["centers"][first:end]
        types = atoms["row_types"][first:end]
        if end - first < n:
            kinds = np.where(atoms["row"] >= 0, atoms["row_types"][atoms["row"]], -1)
            row = np.where(kinds >= 0, end - first + kinds, -1)
            piece = {**atoms, "centers": own, "row": row, "row_types": np.concatenate([types, np.arange(N_TYPES)])}
        else:
            piece = atoms
        expected = BruteForce(spec, piece, neighbors)
        graph.choose(first, end)
        _compare_fields(graph, expected)
        graph.add(gradient[done : done + len(expected.edges)])
        done += len(expected.edges)
    assert done == len(whole.edges)
    forces, virial, *_ = graph.sums()
    graph.close()
    np.testing.assert_allclose(forces, _forces(whole, gradient), rtol=0, atol=1e-12)
    np.testing.assert_allclose(virial, -gradient.T @ whole.fields()[0], rtol=0, atol=1e-11)


def test_sizes_of_pieces(library) -> None:
    spec, atoms = NeighborSpec(3.0, 30, inner=(NeighborSpec(2.0, 6, pairs=True),)), _atoms(*SIZES["many"], seed=3)
    given = {key: atoms[key] for key in ("positions", "row", "centers")}
    neighbors, n = _neighbors(atoms, 3.7), len(atoms["centers"])

    def ends(**rule: int) -> list[int]:
        return piece_ends(library, spec, N_TYPES, **given, neighbors=neighbors, **rule)

    assert ends(atoms=0) == [n]
    assert ends(atoms=n) == [n]
    assert ends(atoms=11) == [11, 22, 33, 40]
    assert ends(items=10**9) == [n]
    assert ends(items=0) == list(range(1, n + 1))
    counts = BruteForce(spec, atoms, neighbors).counts
    items = np.array(counts[()]) + np.array(counts[0,]) ** 2
    most = 200
    found = ends(items=most)
    assert 3 < len(found) < n
    for first, end, after in zip([0, *found], found, [*found[1:], n], strict=False):
        assert items[first:end].sum() <= most or end == first + 1
        if after > end:
            assert items[first : end + 1].sum() > most
    given["centers"] = given["centers"][:0]
    assert ends(items=most) == ends(atoms=0) == ends(atoms=3) == [0]


@pytest.mark.parametrize(
    "spec",
    [NeighborSpec(3.0, 9, sel_by_type=(1, 2)), NeighborSpec(-1.0, 9), NeighborSpec(3.0, 9, exclude_types=((0, 3),))],
    ids=["too few limits", "cutoff", "unknown type"],
)
def test_lists_that_make_no_sense(spec: NeighborSpec, library) -> None:
    atoms = _atoms(3, 2, seed=0)
    with pytest.raises(ValueError, match="does not understand"):
        NativeGraph(library, spec, N_TYPES, **atoms, neighbors=_neighbors(atoms, 3.0))
