"""Spin models with ``atom_style spin``: magnetic forces in LAMMPS's convention, runs, and what can go wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from families import build, freeze, structure
from lammps_runs import MEASURE_SPINS, Output, System, head, run, run_failing, single_point

pytestmark = pytest.mark.lammps

HBAR = 4.135667403e-3 / (2 * np.pi)  # eV ps


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny spin model, frozen in float64."""
    return freeze(["spin"], request.config.cache.mkdir("dpsim-models"))["spin"]


def _deck(folder: Path, model: Path, system: System, spins: np.ndarray, **keywords: str) -> str:
    elements = build("spin").type_map
    data = system.write(folder / "s.data", elements, "spin", spins)
    deck = head(system, data, **{"style": "spin", "before": "atom_modify map array", **keywords})
    return deck + f"pair_style dpsim {model}\npair_coeff * * {' '.join(elements)}\n"


def _measure(folder: Path, model: Path, system: System, spins: np.ndarray) -> Output:
    return single_point(folder, _deck(folder, model, system, spins), 1, MEASURE_SPINS)


def _magnetic_atom(system: System) -> int:
    scale = dict(zip(build("spin").type_map, build("spin").spin, strict=True))
    return next(i for i, s in enumerate(system.symbols) if scale[s] > 0)


def test_fm_is_the_derivative_of_the_energy(model: Path, tmp_path: Path) -> None:
    """``fm = |s| / ħ · (−dE/ds)``, in rad/ps, along and across the spin."""
    system, spins = structure("spin")
    assert spins is not None
    atom, step = _magnetic_atom(system), 1e-4
    found = _measure(tmp_path, model, system, spins)
    slope = np.zeros(3)
    for k in range(3):
        energies = []
        for sign in (1, -1):
            moved = spins.copy()
            moved[atom, k] += sign * step
            energies.append(_measure(tmp_path, model, system, moved).energy)
        slope[k] = (energies[0] - energies[1]) / (2 * step)
    expected = -slope * np.linalg.norm(spins[atom]) / HBAR
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found.magnetic[atom], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    silent = [i for i, s in enumerate(system.symbols) if s != system.symbols[atom]]
    assert not found.magnetic[silent].any()


def test_atoms_without_a_spin(model: Path, tmp_path: Path) -> None:
    """A virtual atom may be where its atom is; LAMMPS has no direction for a spin of no length."""
    from dpsim.calculators.engines import ModuleEngine
    from dpsim.calculators.evaluate import Potential

    system, spins = structure("spin")
    assert spins is not None
    spins[::2] = 0.0
    deck = _deck(tmp_path, model, system, spins)
    text = (tmp_path / "s.data").read_text().replace(" 0 0 1 0\n", " 0 0 0 0\n")
    (tmp_path / "s.data").write_text(text)
    found = single_point(tmp_path, deck, 2)
    potential = Potential(ModuleEngine(build("spin"), "cpu"), "spin")
    expected = potential.evaluate(system.positions, system.symbols, system.cell, spin=spins)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-10)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-10)


def _thermo(text: str) -> np.ndarray:
    rows = [line.split() for line in text.splitlines() if re.match(r"^\s+\d+\s+-?\d", line)]
    return np.array([[float(v) for v in row] for row in rows])


def test_energy_is_conserved_by_the_spin_integrator(model: Path, tmp_path: Path) -> None:
    """With neighbour lists renewed on the way; so few atoms that none is beyond the places of a list."""
    system, spins = structure("spin")
    assert spins is not None
    few = System(system.positions[:22], system.symbols[:22], system.cell)
    deck = _deck(tmp_path, model, few, spins[:22])
    # the untrained model has no repulsion
    deck = deck.replace("pair_style dpsim", "pair_style hybrid/overlay lj/cut 3.0 dpsim")
    deck = deck.replace("* * O H", "* * dpsim O H") + "pair_coeff * * lj/cut 0.02 1.6\npair_modify shift yes\n"
    deck += (
        "neighbor 0.3 bin\nneigh_modify every 1 delay 0 check yes\nvelocity all create 900 4928 loop all\n"
        "fix n all nve/spin lattice moving\ntimestep 0.0005\nthermo_style custom step pe ke etotal\n"
        "thermo_modify format float %.15g\nthermo 20\nrun 200\n"
    )
    text = run(tmp_path, deck)
    rows = _thermo(text)
    assert int(re.findall(r"Neighbor list builds = (\d+)", text)[-1]) >= 2
    assert np.ptp(rows[:, 1]) > 0.02 * rows[:, 2].mean(), "nothing has moved"
    assert np.ptp(rows[:, 3]) < 2e-3 * rows[:, 2].mean()
    assert "fix nve/spin turns spins by the forces of pair styles spin/* alone" in text


def test_minimizer_of_spins(model: Path, tmp_path: Path) -> None:
    """``min_style spin`` turns spins by fm: the energy falls, and falls alike on one and two ranks."""
    system, spins = structure("spin")
    assert spins is not None
    deck = _deck(tmp_path, model, system, spins)
    deck += (
        "min_style spin\nmin_modify alpha_damp 1.0 discrete_factor 10.0\nthermo_style custom step pe\n"
        "thermo_modify format float %.15g\nthermo 10\nminimize 0 0 30 100\n"
    )
    one, two = (_thermo(run(tmp_path, deck, ranks))[:, 1] for ranks in (1, 2))
    assert len(one) >= 4
    assert (np.diff(one) < 0).all()
    np.testing.assert_allclose(two, one, rtol=1e-10)


INPUTS = {
    "no spins": (
        {"style": "atomic"},
        r'is a spin model and needs "atom_style spin", the input has "atom_style atomic"',
    ),
    "units": ({"units": "real"}, r'spin models work in "units metal"'),
}


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_input(name: str, model: Path, tmp_path: Path) -> None:
    keywords, sentence = INPUTS[name]
    system, spins = structure("spin")
    deck = _deck(tmp_path, model, system, spins, **keywords)
    if name == "no spins":
        system.write(tmp_path / "s.data", build("spin").type_map)
    assert re.search(sentence, run_failing(tmp_path, deck + "run 0\n"))


def test_spins_that_grow(model: Path, tmp_path: Path) -> None:
    """A little more is allowed for within a run, and a new run begins with what there is."""
    system, spins = structure("spin")
    assert spins is not None
    deck = _deck(tmp_path, model, system, spins) + "fix n all nve\nrun 0\n"
    longer = "set group all spin/atom {} 0 0 1\n"
    run(tmp_path, deck + longer.format(1.65) + "run 1 pre no post no\n")
    run(tmp_path, deck + longer.format(3.0) + "run 0\n")
    message = run_failing(tmp_path, deck + longer.format(3.0) + "run 1 pre no post no\n")
    assert re.search(r"spins have become more than 1\.1.* times as long .* shorter runs", message)


def test_molecular_dynamics_of_dpsim(model: Path, tmp_path: Path) -> None:
    """``dpsim md`` takes the spins from the structure, in a cell that LAMMPS turns, and hands them on."""
    from ase import Atoms
    from ase.io import read

    from dpsim.calculators.evaluate import load
    from dpsim.calculators.md.config import MDConfig
    from dpsim.calculators.md.lammps import run_md
    from dpsim.errors import DataError

    system, spins = structure("spin")
    assert spins is not None
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    atoms = Atoms(system.symbols[:22], system.positions[:22] @ turn, cell=system.cell @ turn, pbc=True)
    atoms.set_masses([{"O": 16.0, "H": 2.0}.get(symbol, 12.0) for symbol in atoms.symbols])
    segment = {"ensemble": "nve", "temperature": 300, "steps": 6, "timestep": "0.2 fs"}
    config = MDConfig.model_validate({
        "start": "a.xyz", "run": [{**segment, "thermo": {"every": 1}, "dump": {"every": 3}}], "checkpoint": {"every": 2}
    })  # fmt: skip
    names = {"type_map": build("spin").type_map, "ranks": 2}
    with pytest.raises(DataError, match="the model takes spins and the structure has none"):
        run_md(config, atoms, [model], tmp_path / "work", tmp_path / "out", **names)
    atoms.set_initial_magnetic_moments(spins[:22] @ turn)
    result = run_md(config, atoms, [model], tmp_path / "work", tmp_path / "out", **names)
    assert "atom_style spin" in (tmp_path / "work/in-001.lammps").read_text().splitlines()
    assert "Atoms # spin" in result.final_data.read_text()
    potential, frames = load(model), read(result.trajectory, ":")
    table = np.genfromtxt(result.thermo, delimiter=",", names=True)
    assert [frame.info["step"] for frame in frames] == [0, 3, 6]
    for frame in frames:
        moments = frame.get_initial_magnetic_moments()
        np.testing.assert_allclose(moments, spins[:22] @ turn, atol=1e-7)
        found = potential.evaluate(
            frame.positions, frame.get_chemical_symbols(), frame.cell.array, spin=spins[:22] @ turn
        )
        assert table["potential_eV"][frame.info["step"]] == pytest.approx(found.energy, rel=1e-6)
    assert np.ptp(table["potential_eV"]) > 1e-3
