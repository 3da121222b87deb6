"""The plugin's neighbourhood, by loops and by the tensor operations of GPUs, against brute force in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_graph import NativeGraph, load

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


def _brute_force(rule: dict[str, Any], atoms: dict[str, np.ndarray], neighbors: list[np.ndarray]) -> dict[str, Any]:
    """The rules of the exported graph, one atom at a time."""
    x, row, types = atoms["positions"], atoms["row"], atoms["row_types"]
    edges, angle_edge, angles, ptr, angle_ptr = [], [], [], [0], [0]
    for c, i in enumerate(atoms["centers"]):
        near = [(j, np.linalg.norm(x[j] - x[i])) for j in neighbors[i] if row[j] >= 0]
        near = [pair for pair in near if pair[1] <= rule["cutoff"]]
        slot = {j: s for s, (j, _) in enumerate(sorted(near, key=lambda pair: pair[1]))}
        first = len(angle_edge)
        for j, r in near:
            excluded = rule["excluded"] is not None and rule["excluded"][types[c], types[row[j]]]
            if slot[j] >= rule["e_sel"] or excluded:
                continue
            if slot[j] < rule["a_sel"] and r < rule["a_rcut"]:
                angle_edge.append(len(edges))
            edges.append((c, row[j], j, x[j] - x[i]))
        ptr.append(len(edges))
        for a in range(first, len(angle_edge)):
            angles += [(a, b) for b in range(first, len(angle_edge))]
            angle_ptr.append(len(angles))
    return {
        "displacements": np.array([e[3] for e in edges]).reshape(-1, 3), "center": np.array([e[0] for e in edges], int),
        "neighbor": np.array([e[1] for e in edges], int), "atom": np.array([e[2] for e in edges], int),
        "edge_ptr": np.array(ptr), "angle_edge": np.array(angle_edge, int), "angle_ptr": np.array(angle_ptr),
        "angle_ij": np.array([a for a, _ in angles], int), "angle_ik": np.array([b for _, b in angles], int),
        "types": types[: len(atoms["centers"])], "row_types": types, "frame": np.zeros(len(atoms["centers"]), int),
    }  # fmt: skip


EXCLUDED = np.zeros((N_TYPES, N_TYPES), dtype=np.int8)
EXCLUDED[0, 1] = EXCLUDED[1, 0] = EXCLUDED[2, 2] = 1
RULES: dict[str, dict[str, Any]] = {
    "plain": {"cutoff": 3.0, "e_sel": 200, "a_rcut": 2.0, "a_sel": 100, "excluded": None},
    "sel exceeded": {"cutoff": 3.0, "e_sel": 9, "a_rcut": 2.5, "a_sel": 4, "excluded": None},
    "exclusions after slots": {"cutoff": 3.0, "e_sel": 9, "a_rcut": 2.5, "a_sel": 4, "excluded": EXCLUDED},
    "no angles": {"cutoff": 2.0, "e_sel": 50, "a_rcut": 0.0, "a_sel": 0, "excluded": None},
    "nothing near": {"cutoff": 0.01, "e_sel": 50, "a_rcut": 0.005, "a_sel": 5, "excluded": EXCLUDED},
}
SIZES = {"many": (70, 40), "one": (1, 1), "no centers": (12, 0), "nothing": (0, 0)}


@pytest.fixture(scope="module")
def library(plugin: Path):
    return load(plugin)


@pytest.mark.parametrize("tensor_path", [False, True], ids=["loops", "tensors"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RULES)
def test_graph_follows_the_rules(name: str, size: str, tensor_path: bool, library) -> None:
    rule = {**RULES[name], "n_types": N_TYPES}
    atoms = _atoms(*SIZES[size], seed=3)
    neighbors = _neighbors(atoms, rule["cutoff"] + 0.7)
    graph = NativeGraph(library, rule, **atoms, neighbors=neighbors, tensor_path=tensor_path)
    expected = _brute_force(rule, atoms, neighbors)
    for field, values in expected.items():
        if field == "displacements":
            np.testing.assert_allclose(graph[field], values, rtol=0, atol=1e-15)
        elif field != "atom":
            np.testing.assert_array_equal(graph[field], values, err_msg=field)
    if size == "many" and name not in ("no angles", "nothing near"):
        assert len(expected["angle_ij"]) > 50
    gradient = np.random.default_rng(1).normal(size=expected["displacements"].shape)
    forces, virial, atom_virial = graph.scatter(gradient)
    graph.close()
    np.testing.assert_allclose(forces, _forces(expected, gradient, atoms), rtol=0, atol=1e-12)
    np.testing.assert_allclose(virial, -gradient.T @ expected["displacements"], rtol=0, atol=1e-12)
    on_neighbors = np.zeros((len(atoms["positions"]), 3, 3))
    np.add.at(on_neighbors, expected["atom"], -gradient[:, :, None] * expected["displacements"][:, None, :])
    np.testing.assert_allclose(atom_virial, on_neighbors, rtol=0, atol=1e-12)


def _forces(graph: dict[str, Any], gradient: np.ndarray, atoms: dict[str, np.ndarray]) -> np.ndarray:
    forces = np.zeros_like(atoms["positions"])
    np.add.at(forces, atoms["centers"][graph["center"]], gradient)
    np.add.at(forces, graph["atom"], -gradient)
    return forces
