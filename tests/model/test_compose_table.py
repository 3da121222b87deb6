"""Tables of pair energies: reading, extension, spline, and the model that evaluates them."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.errors import ConfigError, DataError
from dpsim.model.compose import table as tables
from dpsim.model.compose.config import PairTableConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph

PAIR = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


def written(path, rows):
    np.savetxt(path, rows, fmt="%.17g")
    return path


def powers(n=21, start=0.5, step=0.1, factors=(1.0, 2.0, 3.0)):
    """Rows of r⁻² with one factor a pair."""
    r = start + step * np.arange(n)
    return np.column_stack([r, *(factor * r**-2 for factor in factors)])


def pair_potential(config):
    return Potential(ModuleEngine(config.build(0), "cpu"), "the table")


def energy_of_pair(potential, r, types=(0, 1)):
    return potential.evaluate(PAIR * r, list(types)).energy


def test_columns_are_pairs_in_the_order_of_the_upper_triangle():
    assert tables.pair_of_types(3).tolist() == [[0, 1, 2], [1, 3, 4], [2, 4, 5]]


def test_grid_points_have_the_energies_of_the_table(tmp_path):
    rows = powers()
    config = PairTableConfig.from_file(written(tmp_path / "t.txt", rows), ("A", "B"), rcut=2.4, sel=10)
    potential = pair_potential(config)
    for types, column in (((0, 0), 1), ((0, 1), 2), ((1, 0), 2), ((1, 1), 3)):
        for row in rows[1:-2]:
            assert energy_of_pair(potential, row[0], types) == pytest.approx(row[column], rel=1e-13)


def test_spline_is_smooth_and_level_at_both_ends():
    """The second derivative is continuous inside, the first is zero at the ends."""
    a, b, c, d = np.moveaxis(tables.spline(powers())[0], -1, 0)
    values, slopes, bends = a + b + c + d, 3 * a + 2 * b + c, 6 * a + 2 * b
    np.testing.assert_allclose(values[:-1], d[1:], rtol=1e-13)
    np.testing.assert_allclose(slopes[:-1], c[1:], atol=1e-13)
    np.testing.assert_allclose(bends[:-1], 2 * b[1:], atol=1e-12)
    assert c[0] == 0.0
    assert slopes[-1] == pytest.approx(0.0, abs=1e-13)


def test_two_rows_are_a_single_level_step():
    assert tables.spline(np.array([[0.0, 1.0], [1.0, 3.0]]))[0].tolist() == [[-4.0, 6.0, 0.0, 1.0]]


def test_a_table_that_ends_in_zeros_is_continued_with_zeros():
    rows = powers()
    rows[-1, 1:] = 0.0
    found = tables.extended(rows, 3.05)
    assert len(found) == 1 + int(np.ceil(3.05 / 0.1 - 0.5 / 0.1))
    assert np.array_equal(found[: len(rows)], rows)
    assert not found[len(rows) :, 1:].any()
    np.testing.assert_allclose(found[:, 0], 0.5 + 0.1 * np.arange(len(found)))


def test_a_table_that_does_not_end_in_zero_goes_down_before_the_cutoff():
    """Value and the difference of the last rows (not their quotient) at the start, nothing at the last grid point."""
    rows = powers()
    found = tables.extended(rows, 3.05)
    last, slope = rows[-1, 1:], rows[-1, 1:] - rows[-2, 1:]
    width = 3.0 - 2.5
    t = ((found[len(rows) :, 0] - 2.5) / width)[:, None]
    expected = last * (2 * t**3 - 3 * t**2 + 1) + slope * width * (t**3 - 2 * t**2 + t)
    np.testing.assert_allclose(found[len(rows) :, 1:], expected, atol=1e-14)
    assert found[-1, 0] == pytest.approx(3.0)
    np.testing.assert_allclose(found[-1, 1:], 0.0, atol=1e-14)


def test_one_point_more_is_the_end_itself():
    found = tables.extended(powers(), 2.55)
    assert len(found) == 22
    np.testing.assert_allclose(found[-1], [2.6, 0.0, 0.0, 0.0], atol=1e-14)


def test_a_table_beyond_the_cutoff_is_cut_there(tmp_path):
    rows = powers()
    assert tables.extended(rows, 2.0) is rows
    config = PairTableConfig.from_file(written(tmp_path / "t.txt", rows), ("A", "B"), rcut=2.0, sel=10)
    potential = pair_potential(config)
    assert energy_of_pair(potential, 1.9999) > 0.4
    assert energy_of_pair(potential, 2.0) == 0.0


def test_closer_than_the_table_is_refused_in_python_and_a_straight_line_in_graphs(tmp_path):
    config = PairTableConfig.from_file(written(tmp_path / "t.txt", powers()), ("A", "B"), rcut=2.4, sel=10)
    model = config.build(0)
    with pytest.raises(DataError, match=r"frame 0: atoms 0 and 1 are 0.4 Å apart, .* begins at 0.5 Å"):
        energy_of_pair(pair_potential(config), 0.4)
    graphs = [frame_graph(PAIR * r, np.array([0, 0]), None, model.neighbors) for r in (0.3, 0.5, 0.6)]
    found = model.derivatives(collate(graphs), 3)
    first, second = found.energy[1], found.energy[2]
    assert found.energy[0] == pytest.approx(float(first + 2 * (first - second)), rel=1e-12)
    assert found.forces[0, 0] == pytest.approx(float(second - first) / 0.1, rel=1e-12)


def test_bias_and_exclusions():
    config = PairTableConfig.tiny()
    model = config.build(0)
    model.out_bias.copy_(torch.tensor([2.0, 3.0]))
    plain = Potential(ModuleEngine(config.build(0), "cpu"), "plain").evaluate(PAIR, [0, 1]).atomic_energy
    found = Potential(ModuleEngine(model, "cpu"), "biased").evaluate(PAIR, [0, 1]).atomic_energy
    np.testing.assert_allclose(found, plain + np.array([2.0, 3.0]), rtol=1e-14)
    apart = config.model_copy(update={"pair_exclude_types": ((0, 1),)})
    assert energy_of_pair(pair_potential(apart), 1.0) == 0.0
    silent = config.model_copy(update={"atom_exclude_types": (1,)})
    assert energy_of_pair(pair_potential(silent), 1.0) == pytest.approx(plain[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# nothing\n", "is empty, expected rows"),
        ("0.1 1 2\n0.2 1 2\n", r"has 3 columns, expected 4: the distance and the energies of the 3 pairs of 2 types"),
        ("0.1 1 2 3\n", "the table has 1 rows, expected at least two"),
        ("0.1 1 2 3\n0.2 1 nan 3\n", "row 2 has a number that is not finite"),
        ("0.1 1 2 3\n0.2 1 2 3\n0.4 1 2 3\n", "row 3 is at 0.4 Å, expected 0.3 Å"),
        ("0.2 1 2 3\n0.1 1 2 3\n", "the distances begin with 0.2 and 0.1 Å"),
        ("0.1 1 2 x\n", "is no table of pair energies"),
        ("0.1 1 2 3\n0.1000001 1 2 3\n", "choose a larger step"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, says):
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        PairTableConfig.from_file(path, ("A", "B"), rcut=4.0, sel=10)


def test_a_missing_or_huge_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="there is no such table"):
        PairTableConfig.from_file(tmp_path / "no.txt", ("A", "B"), rcut=4.0, sel=10)
    monkeypatch.setattr(tables, "MOST_BYTES", 10)
    with pytest.raises(ConfigError, match="expected a table of at most 10"):
        PairTableConfig.from_file(written(tmp_path / "t.txt", powers()), ("A", "B"), rcut=4.0, sel=10)


def test_settings_are_checked_too():
    with pytest.raises(ValidationError, match="row 2 of the table has 3 numbers, expected 4"):
        PairTableConfig(type_map=("A", "B"), rcut=4.0, sel=10, table=((0.1, 1, 2, 3), (0.2, 1, 2)))
    with pytest.raises(ValidationError, match="expected at least two distances"):
        PairTableConfig(type_map=("A",), rcut=4.0, sel=10, table=())
    with pytest.raises(ValidationError, match="excluded types"):
        PairTableConfig.tiny().model_validate(PairTableConfig.tiny().model_dump() | {"atom_exclude_types": [2]})
