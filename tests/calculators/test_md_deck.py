"""Data file and input deck, without running LAMMPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from dpsim.calculators.lammps_data import elements_of, lammps_box, write_data
from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.deck import (
    DeckSettings,
    check_box,
    deck_text,
    dpsim_pair_lines,
    first_span,
    lammps_seed,
    spans,
)
from dpsim.errors import ConfigError, DataError


def config(*run: dict[str, Any], **more: Any) -> MDConfig:
    return MDConfig.model_validate({"start": "a.xyz", "run": list(run), **more})


def deck(cfg: MDConfig, **changes: Any) -> str:
    values: dict[str, Any] = {"elements": ("O", "H"), "pair_lines": tuple(dpsim_pair_lines("model.pt2", ["O", "H"])),
                              "boundary": "p p p", "open_box": False, "seed": 7, **changes}  # fmt: skip
    return deck_text(cfg, DeckSettings(**values))


def lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[:1] == [word]]


STEPS: dict[str, Any] = {"steps": 1000, "timestep": "1 fs"}


@pytest.mark.parametrize(
    ("segment", "fixes"),
    [
        ({"ensemble": "nve", "temperature": 300}, ["fix integrate0 all nve"]),
        ({"ensemble": "nvt", "temperature": [300, 600]}, ["fix integrate0 all nvt temp 300.0 600.0 0.1"]),
        (
            {"ensemble": "nvt", "temperature": 300, "thermostat": "langevin", "damping": "50 fs"},
            [
                "fix integrate0 all nve",
                "fix still0 all momentum 1 linear 1 1 1",
                "fix noise0 all langevin 300.0 300.0 0.05 $(v_noise:%.0f)",
            ],
        ),
        (
            {"ensemble": "npt", "temperature": 300, "pressure": ["1 bar", "1 kbar"], "coupling": "anisotropic"},
            ["fix integrate0 all npt temp 300.0 300.0 0.1 aniso 1.0 1000.0 1.0 fixedpoint 0.0 0.0 0.0"],
        ),
        (
            {"ensemble": "npt", "temperature": 300, "pressure": "1 bar", "thermostat": "langevin"},
            [
                "fix integrate0 all nph iso 1.0 1.0 1.0 fixedpoint 0.0 0.0 0.0",
                "fix still0 all momentum 1 linear 1 1 1",
                "fix noise0 all langevin 300.0 300.0 0.1 $(v_noise:%.0f)",
            ],
        ),
    ],
)
def test_each_ensemble_has_its_fixes(segment: dict[str, Any], fixes: list[str]) -> None:
    text = deck(config({**segment, **STEPS}))
    assert lines(text, "fix") == fixes
    assert lines(text, "unfix")[-1] == "unfix integrate0"
    assert "velocity all create 300.0 8 mom yes rot no dist gaussian loop all" in text


def test_pair_lines_name_elements_in_order() -> None:
    text = deck(config({"ensemble": "nvt", "temperature": 300, **STEPS}))
    assert lines(text, "pair_style") == ['pair_style dpsim "model.pt2"']
    assert lines(text, "pair_coeff") == ["pair_coeff * * O H"]
    assert lines(text, "units") == ["units metal"]
    assert lines(text, "newton") == ["newton on"]


@pytest.mark.parametrize("mpi", ["auto", "device", "host"])
def test_ranks_exchange_data_as_they_are_told(mpi: str) -> None:
    nvt = {"ensemble": "nvt", "temperature": 300, **STEPS}
    assert lines(deck(config(nvt), mpi=mpi), "pair_style") == [f'pair_style dpsim "model.pt2" mpi {mpi}']
    several = deck(config(nvt, deviation={"every": 10}), mpi=mpi, ensemble=("a.pt2", "b.pt2"), attempt=1)
    assert lines(several, "pair_style")[0].endswith(f"out_freq 10 mpi {mpi}")
    calm = deck(config({"ensemble": "minimize"}), mpi=mpi)
    assert lines(calm, "pair_style") == [f'pair_style dpsim "model.pt2" mpi {mpi}']


def test_atoms_with_spins_have_a_style_of_their_own() -> None:
    cfg = config({"ensemble": "nvt", "temperature": 300, **STEPS})
    assert lines(deck(cfg), "atom_style") == ["atom_style atomic"]
    assert lines(deck(cfg, atom_style="spin"), "atom_style") == ["atom_style spin"]


def test_segments_are_totals_on_one_axis_of_steps() -> None:
    cfg = config(
        {"ensemble": "minimize"}, {"ensemble": "nvt", "temperature": 300, **STEPS}, {"ensemble": "nve", "steps": 500}
    )
    assert [(s.begin, s.end, s.time) for s in spans(cfg)] == [(0, 200, 0.0), (0, 1000, 0.0), (1000, 1500, 1.0)]
    runs = [line.split()[:7] for line in lines(deck(cfg), "run")]
    assert runs == [line.split() for line in ("run 1000 upto start 0 stop 1000", "run 1500 upto start 1000 stop 1500")]
    assert "reset_timestep 0 time 0.0" in deck(cfg)


def test_a_restart_begins_inside_its_segment_and_creates_no_velocities() -> None:
    cfg = config(
        {"ensemble": "minimize"}, {"ensemble": "nvt", "temperature": 300, **STEPS}, {"ensemble": "nve", "steps": 500}
    )
    layout = spans(cfg)
    assert [first_span(layout, step) for step in (None, 0, 500, 1000, 1499, 1500)] == [0, 1, 1, 2, 2, 3]
    text = deck(cfg, restart=(500, "checkpoint-500.restart"), attempt=2)
    assert lines(text, "read_restart") == ["read_restart checkpoint-500.restart"]
    assert not lines(text, "velocity")
    assert not lines(text, "minimize")
    assert "dump-1-002.lammpstrj" in text
    assert not lines(deck(cfg, restart=(1500, "checkpoint-1500.restart"), attempt=3), "run")


def test_kept_velocities_are_not_drawn_again() -> None:
    assert not lines(deck(config({"ensemble": "nve", **STEPS}, velocities="keep")), "velocity")


def test_seed_is_one_that_lammps_takes() -> None:
    assert lammps_seed(0) == 1
    assert 1 <= lammps_seed(2**63) < 900_000_000


@pytest.mark.parametrize(
    ("run", "more", "message"),
    [
        ({"ensemble": "npt", "temperature": 300, "pressure": 1, **STEPS}, {}, r"run\[0\]: npt needs a box periodic"),
        ({"ensemble": "nvt", "temperature": 300, **STEPS}, {"analyse": ["rdf"]}, "g.r. needs a box periodic"),
    ],
)
def test_open_boxes_refuse_barostat_and_rdf(run: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_box(config(run, **more), (True, True, False))


def random_cell(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms("OH2", positions=rng.normal(size=(3, 3)), cell=6 * np.eye(3) + rng.normal(size=(3, 3)), pbc=True)


@pytest.mark.parametrize("seed", range(8))
def test_rotation_returns_cell_and_positions(seed: int) -> None:
    atoms = random_cell(seed)
    if seed % 2:  # a left-handed cell
        atoms.cell[0] *= -1
    box = lammps_box(atoms)
    assert np.allclose(box.vectors, np.tril(box.vectors))
    assert (np.diag(box.vectors) > 0).all()
    assert np.allclose(box.cell_back(box.vectors), atoms.cell)
    assert np.allclose(box.positions_back(box.to_lammps(atoms.positions), box.origin), atoms.positions)


def test_lower_triangular_cell_is_kept_to_the_last_bit() -> None:
    atoms = bulk("Cu", cubic=True)
    assert np.array_equal(lammps_box(atoms).rotation, np.eye(3))
    assert not lammps_box(atoms).triclinic


def test_open_directions_enclose_the_atoms() -> None:
    atoms = molecule("CH3OH")
    box = lammps_box(atoms)
    assert box.boundary == "m m m"
    inside = box.to_lammps(atoms.positions) - box.origin
    assert (inside >= 4.999).all()
    assert (np.diag(box.vectors) - inside.max(axis=0) >= 4.999).all()


def test_slab_in_a_skewed_plane() -> None:
    atoms = Atoms(
        "Cu2", positions=[[0, 0, 0], [1, 1, 2]], cell=[[3, 0, 0], [1.5, 2.5, 0], [9, 9, 9]], pbc=(True, True, False)
    )
    box = lammps_box(atoms)
    assert box.boundary == "p p m"
    assert np.allclose(box.vectors[2, :2], 0)
    assert box.vectors[2, 2] == pytest.approx(12.0)
    assert np.allclose(box.cell_back(box.vectors), atoms.cell)


def test_periodic_without_volume_is_refused() -> None:
    with pytest.raises(DataError, match="has no volume"):
        lammps_box(Atoms("H", cell=[3, 3, 0], pbc=True))


def test_data_file(tmp_path: Path) -> None:
    atoms = Atoms("HOH", positions=[[0, 0, 0], [1, 0, 0], [1, 1, 0]], cell=[5, 6, 7], pbc=True)
    atoms.set_masses([2.014, 15.999, 2.014])
    elements = elements_of(atoms, ("O", "H"))
    assert elements == ("O", "H")
    write_data(tmp_path / "a.data", atoms, elements, lammps_box(atoms), tilt=True, velocities=False)
    text = (tmp_path / "a.data").read_text()
    assert "Atom Type Labels\n\n1 O\n2 H\n" in text
    assert "Masses\n\n1 15.999\n2 2.014\n" in text
    assert "0.0 0.0 0.0 xy xz yz" in text
    assert "Atoms # atomic\n\n1 2 0.0 0.0 0.0\n2 1 1.0 0.0 0.0\n" in text


def test_wrong_elements_and_masses(tmp_path: Path) -> None:
    atoms = Atoms("HOH", positions=np.eye(3), cell=[5, 5, 5], pbc=True)
    with pytest.raises(DataError, match=r"contains O \(atom 1\), but the model knows only H"):
        elements_of(atoms, ("H",))
    atoms.set_masses([1.008, 15.999, 2.014])
    with pytest.raises(DataError, match=r"atoms of H have the masses \[1.008, 2.014\]"):
        write_data(tmp_path / "a.data", atoms, ("O", "H"), lammps_box(atoms), tilt=False, velocities=False)
