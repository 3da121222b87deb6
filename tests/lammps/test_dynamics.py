"""Runs of many steps: the same trajectory on any number of ranks, and all that starts, stops or changes a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from families import freeze
from lammps_runs import System, grid, head, run, symbols

pytestmark = pytest.mark.lammps


def _liquid(folder: Path, n: int = 48, side: float = 8.2, **keywords: str) -> str:
    system = System(grid(n, (side,) * 3, 21), symbols(n, 21), np.eye(3) * side)
    return head(system, system.write(folder / "s.data", ("O", "H")), **keywords)


def _pair(model: Path) -> str:
    return f"pair_style dpsim {model}\npair_coeff * * O H\nneighbor 0.4 bin\nneigh_modify every 1 delay 0 check yes\n"


def _pair_with_repulsion(model: Path) -> str:
    """The untrained model has no repulsion: atoms would fall into each other, and rounding errors explode."""
    style = (
        _pair(model)
        .replace("pair_style dpsim", "pair_style hybrid/overlay lj/cut 3.0 dpsim")
        .replace("* * O H", "* * dpsim O H")
    )
    return style + "pair_coeff * * lj/cut 0.02 1.6\npair_modify shift yes\n"


def _thermo(text: str) -> np.ndarray:
    """Rows of numbers of all thermo tables."""
    rows, inside = [], False
    for line in text.splitlines():
        if line.split()[:1] == ["Step"]:
            inside = True
        elif line.startswith("Loop time"):
            inside = False
        elif inside and re.match(r"^\s+\d+\s", line):
            rows.append([float(v) for v in line.split()])
    return np.array(rows)


def _builds(text: str) -> int:
    return int(re.findall(r"Neighbor list builds = (\d+)", text)[-1])


@pytest.mark.parametrize("family", ["dpa3", "dpa2-ener", "se_e2_a-ener"])
def test_nve_is_the_same_on_one_and_two_ranks(
    family: str, model64: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    frozen = {"dpa3": model64}
    if family not in frozen:
        frozen = freeze([family], request.config.cache.mkdir("dpsim-models"))
    deck = _liquid(tmp_path) + _pair_with_repulsion(frozen[family])
    deck += (
        "velocity all create 300 4928 loop all\nfix n all nve\ntimestep 0.0005\n"
        "thermo_style custom step pe ke etotal pxx pyy pzz pxy\nthermo_modify format float %.15g\nthermo 20\n"
        "dump d all custom 200 x.dump id xu yu zu vx vy vz\n"
        "dump_modify d sort id format float %.17g first no\nrun 200\n"
    )
    texts, final = [], []
    for ranks in (1, 2):
        texts.append(run(tmp_path, deck, ranks))
        final.append(np.loadtxt((tmp_path / "x.dump").read_text().splitlines()[-48:]))
    assert _builds(texts[0]) >= 3, "the run must renew its neighbour list"
    assert _builds(texts[0]) == _builds(texts[1])
    np.testing.assert_allclose(final[1], final[0], rtol=0, atol=1e-9)
    one, two = (_thermo(text) for text in texts)
    np.testing.assert_allclose(two[:, 1:], one[:, 1:], rtol=1e-9, atol=1e-9)
    energy = one[:, 3]
    kinetic = one[:, 2].mean()
    assert np.ptp(energy) < 2e-3 * kinetic, "forces are not the gradient of the energy"


def test_npt_with_balancing_is_the_same_on_one_and_four_ranks(model64: Path, tmp_path: Path) -> None:
    """Box and domains change; ranks get and lose atoms."""
    deck = _liquid(tmp_path, before="comm_style tiled") + _pair(model64) + "change_box all triclinic\n"
    deck += (
        "velocity all create 600 77 loop all\nfix n all npt temp 600 600 0.05 tri 0 0 0.5\n"
        "fix b all balance 10 1.0 rcb\ntimestep 0.0005\nthermo_style custom step pe pxx pyz lx xy\n"
        "thermo_modify format float %.15g\nthermo 10\nrun 60\n"
    )
    one, four = (_thermo(run(tmp_path, deck, ranks)) for ranks in (1, 4))
    np.testing.assert_allclose(four, one, rtol=1e-8, atol=1e-8)


def test_run_zero_twice_and_continuation(model64: Path, tmp_path: Path) -> None:
    deck = _liquid(tmp_path) + _pair(model64)
    deck += "fix n all nve\nthermo_modify format float %.15g\nthermo 1\nrun 0\nrun 0\nrun 2\nrun 0\nrun 1 pre no\n"
    for ranks in (1, 2):
        rows = _thermo(run(tmp_path, deck, ranks))
        assert rows[0].tolist() == rows[1].tolist() == rows[2].tolist()
        np.testing.assert_allclose(rows[5], rows[4], rtol=1e-12)  # step 2, at the end of a run and afresh


def test_clear_and_a_second_model(model64: Path, model32: Path, tmp_path: Path) -> None:
    once = _liquid(tmp_path) + _pair(model64) + "thermo_modify format float %.15g\nrun 0\n"
    other = once.replace(str(model64), str(model32))
    rows = _thermo(run(tmp_path, f"{once}clear\n{other}clear\n{once}", 2))
    assert rows[0].tolist() == rows[2].tolist()
    assert rows[1][2] != rows[0][2]
    np.testing.assert_allclose(rows[1][2], rows[0][2], rtol=1e-5)


def test_restart_asks_for_the_pair_style_again(model64: Path, tmp_path: Path) -> None:
    first = _liquid(tmp_path) + _pair(model64)
    first += "fix n all nve\nthermo_modify format float %.15g\nthermo 5\nrun 5\nwrite_restart s.restart\nrun 5\n"
    whole = _thermo(run(tmp_path, first, 2))
    second = (
        f"read_restart s.restart\n{_pair(model64)}fix n all nve\nthermo_modify format float %.15g\nthermo 5\nrun 5\n"
    )
    continued = _thermo(run(tmp_path, second, 1))
    np.testing.assert_allclose(continued[-1], whole[-1], rtol=1e-10)


def test_minimize_and_box_relax(model64: Path, tmp_path: Path) -> None:
    deck = _liquid(tmp_path, 24, 7.0) + _pair(model64)
    deck += "fix r all box/relax iso 0.0 vmax 0.001\nthermo_modify format float %.15g\nthermo 5\nminimize 0 0 10 20\n"
    one, two = (_thermo(run(tmp_path, deck, ranks)) for ranks in (1, 2))
    assert one[-1][2] < one[0][2]
    np.testing.assert_allclose(two[-1], one[-1], rtol=1e-8)


def test_atoms_come_and_go(model64: Path, tmp_path: Path) -> None:
    """Ranks agree after each change; an emptied half of the box is no obstacle."""
    deck = _liquid(tmp_path) + _pair(model64)
    deck += (
        "fix n all nve\nthermo_style custom step atoms pe pxx\nthermo_modify format float %.15g lost ignore\nthermo 5\n"
        "run 5\ncreate_atoms 1 single 4.1 4.1 4.1\nrun 5\nregion half block INF 4.1 INF INF INF INF\n"
        "delete_atoms region half\nrun 5\ndelete_atoms group all\nrun 2\n"
    )
    one, two = (_thermo(run(tmp_path, deck, ranks)) for ranks in (1, 2))
    assert sorted(set(one[:, 1].astype(int)))[0] == 0
    assert one[:, 1].max() == 49
    np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9)


def test_partitions_have_plans_of_their_own(model64: Path, tmp_path: Path) -> None:
    """Two replicas of two ranks each give the energy of the run on one rank."""
    from lammps_runs import TIMEOUT, run_program

    from dpsim.lammps.launcher import lammps_command

    deck = _liquid(tmp_path) + _pair(model64) + 'run 0\nprint "energy $(pe:%.12g)" file e.${p}.txt\n'
    (tmp_path / "in.p").write_text("variable p uloop 2\n" + deck)
    argv, env = lammps_command(4, tmp_path / "in.p", plugin=True, extra=["-partition", "2x2"])
    code, text = run_program(argv, env, tmp_path, TIMEOUT)
    assert code == 0, text
    (tmp_path / "in.1").write_text("variable p index alone\n" + deck)
    run(tmp_path, "variable p index alone\n" + deck, 1)
    found = [(tmp_path / f"e.{p}.txt").read_text() for p in ("1", "2", "alone")]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("ranks", [1, 2])
def test_molecules_under_special_bonds(ranks: int, model64: Path, tmp_path: Path) -> None:
    """Factors that keep all pairs in the list change nothing."""
    system = System(grid(30, (7.5,) * 3, 30), symbols(30, 30), np.eye(3) * 7.5)
    plain = head(system, system.write(tmp_path / "s.data", ("O", "H"))) + _pair(model64)
    plain += "thermo_modify format float %.12g\nrun 0\n"
    bonded = head(system, system.write(tmp_path / "b.data", ("O", "H"), "molecular"), style="molecular")
    bonded = bonded.replace("read_data b.data", "read_data b.data extra/special/per/atom 8 extra/bond/per/atom 4 "
                            "extra/bond/types 1")  # fmt: skip
    bonded += "pair_style zero 5.0\npair_coeff * *\nbond_style zero\nbond_coeff *\n"
    bonded += "create_bonds many all all 1 0.5 1.9\nspecial_bonds lj/coul 1 1 1\n" + _pair(model64)
    bonded += "thermo_modify format float %.12g\nrun 0\n"
    one, two = _thermo(run(tmp_path, plain, ranks)), _thermo(run(tmp_path, bonded, ranks))
    np.testing.assert_allclose(two[0][2], one[0][2], rtol=1e-11)
