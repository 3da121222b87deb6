"""Splits and summaries."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.data.distances import closest_pair, neighbor_counts, pairs
from dpsim.data.split import divide, split_frames
from dpsim.data.summary import format_table, summarize
from dpsim.errors import DataError

THREE = {"train": 0.8, "valid": 0.1, "test": 0.1}


def test_shares_come_out_and_depend_on_nothing_but_the_seed() -> None:
    first = divide(range(60), THREE, by="frame", seed=7)
    assert {name: len(part) for name, part in first.items()} == {"train": 48, "valid": 6, "test": 6}
    assert sorted(i for part in first.values() for i in part) == list(range(60))
    assert divide(range(60), THREE, by="frame", seed=7) == first
    assert divide(range(60), THREE, by="frame", seed=8) != first


@given(
    keys=st.lists(st.integers(0, 12), min_size=3, max_size=80),
    shares=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)),
    seed=st.integers(0, 5),
)
def test_groups_stay_whole_and_no_part_is_empty(keys: list[int], shares: tuple[int, int, int], seed: int) -> None:
    fractions = {name: share / sum(shares) for name, share in zip("abc", shares, strict=True)}
    wanted = [name for name, fraction in fractions.items() if fraction > 0]
    if len(set(keys)) < len(wanted):
        with pytest.raises(DataError, match="cannot fill"):
            divide(keys, fractions, by="formula", seed=seed)
        return
    parts = divide(keys, fractions, by="formula", seed=seed)
    assert list(parts) == wanted
    assert all(parts.values())
    assert sorted(i for part in parts.values() for i in part) == list(range(len(keys)))
    owners = [{keys[i] for i in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(set(keys))


@pytest.mark.parametrize(
    ("count", "fractions", "sentence"),
    [
        (10, {"train": 0.8, "valid": 0.1}, r"split: the shares \(train 0.8, valid 0.1\) sum to 0.9, expected 1"),
        (10, {"train": 1.2, "valid": -0.2}, r"split: the share of valid is -0.2, expected a number between 0 and 1"),
        (2, THREE, r"split: 2 frames of 2 frames cannot fill 3 parts \(train, valid, test\)"),
    ],
)
def test_impossible_splits(count: int, fractions: dict[str, float], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        divide(range(count), fractions, by="frame", seed=0)


def frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    return [
        Frame(
            np.array([[0, 0, 0], [0, 0, 0.5 + k / 10], [3, 3, 3]]) + rng.normal(0, 1e-3, (3, 3)),
            np.array([0, 1, k % 2]),
            np.eye(3) * 8,
            {"energy": np.array(float(k))} | ({"virial": np.eye(3)} if k > 5 else {}),
            origin=f"run{k // 2}",
        )
        for k in range(8)
    ]


def test_split_by_origin_and_formula(tmp_path: Path) -> None:
    write_mixed(frames(), tmp_path / "d", ["O", "H"])
    dataset = open_dataset(tmp_path / "d")
    parts = split_frames(dataset, {"train": 0.5, "valid": 0.5}, by="structure", seed=1)
    origins = [{dataset[i].origin for i in part} for part in parts.values()]
    assert [len(one) for one in origins] == [2, 2]
    assert not set.intersection(*origins)
    assert parts == split_frames(list(dataset), {"train": 0.5, "valid": 0.5}, by="trajectory", seed=1)
    formulas = split_frames(dataset, {"train": 0.5, "valid": 0.5}, by="formula")
    assert [{dataset[i].formula(dataset.type_map) for i in part} for part in formulas.values()] in (
        [{"O2H"}, {"OH2"}], [{"OH2"}, {"O2H"}],
    )  # fmt: skip
    with pytest.raises(DataError, match="split by 'size' is not known, expected one of frame, structure"):
        split_frames(dataset, THREE, by="size")  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"8 frames of 2 formulas cannot fill 3 parts.*split by frame, or ask for fewer"
    ):
        split_frames(dataset, THREE, by="formula")


def test_summary_counts_labels_and_compositions(tmp_path: Path) -> None:
    write_mixed(frames(), tmp_path / "d", ["O", "H"])
    summary = summarize(open_dataset(tmp_path / "d"), distances=True)
    assert summary.fields == {"energy": 8, "virial": 2}
    assert summary.compositions == {"O2H": 4, "OH2": 4}
    assert [(row.system, row.frames, row.atoms, row.periodic) for row in summary.systems] == [
        ("d/3-energy", 6, (3, 3), True), ("d/3-energy-virial", 2, (3, 3), True),
    ]  # fmt: skip
    assert summary.systems[0].min_distance == pytest.approx(0.5, abs=0.01)
    table = summary.table().splitlines()
    assert table[0].split() == ["system", "frames", "atoms", "formula", "energy", "virial", "closest/Å"]
    assert table[1].split()[:3] == ["d/3-energy", "6", "3"]
    assert table[-1].split() == ["total", "8", "2", "compositions", "8", "2"]


def test_table_aligns_numbers_right() -> None:
    assert format_table(["a", "n"], [["x", "1"], ["long", "100"]]).splitlines() == [
        "a       n",
        "x       1",
        "long  100",
    ]


def test_pairs_see_images_and_agree_with_a_direct_sum() -> None:
    rng = np.random.default_rng(3)
    cell = np.array([[4.0, 0, 0], [1.0, 5.0, 0], [0.5, -0.7, 4.5]])
    frame = Frame(rng.uniform(0, 4, (5, 3)), np.array([0, 1, 0, 1, 1]), cell)
    shifts = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    all_d = np.linalg.norm(frame.positions[None, :, None] + shifts - frame.positions[:, None, None], axis=-1)
    near = (all_d < 6.0) & (all_d > 1e-9)
    d = pairs(frame, 6.0)[2]
    assert len(d) == near.sum()
    np.testing.assert_allclose(np.sort(d), np.sort(all_d[near]), rtol=1e-10)
    counts = neighbor_counts(frame, 6.0, 2)
    np.testing.assert_array_equal(counts.sum(axis=1), near.sum(axis=(1, 2)))
    np.testing.assert_array_equal(counts[:, 1], near[:, frame.types == 1].sum(axis=(1, 2)))
    assert closest_pair(frame)[0] == pytest.approx(all_d[near].min())


def test_far_atoms_have_no_closest_pair() -> None:
    assert closest_pair(Frame(np.array([[0, 0, 0], [0, 0, 50.0]]), np.array([0, 0]), None))[0] == np.inf
    assert len(pairs(Frame(np.zeros((0, 3)), np.zeros(0, int), None), 3.0)[0]) == 0
