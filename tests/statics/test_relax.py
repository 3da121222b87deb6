"""Relaxation: what converges, what moves, what is said where it does not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from pydantic import ValidationError

import dpsim
from dpsim.calculators.statics.relax import relax
from dpsim.calculators.statics.relax_config import RelaxConfig, RelaxSettings
from dpsim.calculators.statics.relax_run import run_relax
from dpsim.calculators.statics.source import calculator_source, model_source
from dpsim.errors import DataError, Interrupted, StageError

COPPER = {"prototype": "fcc", "element": "Cu"}
A_EMT = 3.58982
"""Å; lattice constant of copper in EMT."""


def rattled(a: float = 3.65) -> Any:
    atoms = bulk("Cu", cubic=True, a=a).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    return atoms


def config(**options: Any) -> RelaxConfig:
    return RelaxConfig.model_validate({"on": COPPER, **options})


@pytest.mark.parametrize("optimizer", ["FIRE", "LBFGS", "BFGS"])
def test_everything_moves(optimizer: str) -> None:
    settings = RelaxSettings(cell="full", fmax=1e-3, stress_max=20.0, optimizer=optimizer)  # type: ignore[arg-type]
    start = rattled()
    found = relax(start, EMT(), settings)
    assert found.converged
    assert found.before is not None
    assert found.after is not None
    assert found.after.energy < found.before.energy
    np.testing.assert_allclose(found.atoms.cell.cellpar(), [2 * A_EMT, A_EMT, A_EMT, 90, 90, 90], atol=2e-3)
    np.testing.assert_array_equal(start.positions, rattled().positions)
    assert start.calc is None


def test_pressure_and_parts_of_the_cell() -> None:
    """At 10 GPa the volume shrinks by P/B; `volume` keeps the shape, `shape` the volume, `fixed` both."""
    sheared = bulk("Cu", cubic=True, a=3.62)
    sheared.set_cell(sheared.cell.array @ [[1.01, 0.02, 0.0], [0.0, 0.99, 0.0], [0.0, 0.0, 1.0]], scale_atoms=True)
    volume = sheared.get_volume()

    def cell(**options: Any) -> Any:
        found = relax(sheared, EMT(), RelaxSettings(fmax=1e-3, stress_max=20.0, **options))
        assert found.converged
        return found.atoms.cell

    squeezed = cell(cell="full", pressure="10 GPa")
    assert squeezed.volume / A_EMT**3 == pytest.approx(1 - 10 / 134.4, abs=0.015)
    assert cell(cell="shape").volume == pytest.approx(volume, rel=1e-6)
    np.testing.assert_allclose(cell(cell="shape").angles(), 90, atol=0.05)
    np.testing.assert_allclose(cell(cell="volume").angles(), sheared.cell.angles(), atol=1e-6)
    np.testing.assert_array_equal(cell(cell="fixed"), sheared.cell)


def test_symmetry_is_kept_where_it_would_break() -> None:
    """A crystal at a saddle, bcc copper, stays bcc; without the constraint nothing says so."""
    import spglib

    found = relax(bulk("Cu", "bcc", a=2.9, cubic=True), EMT(), RelaxSettings(cell="full", keep_symmetry=True))
    assert found.converged
    assert not found.atoms.constraints
    cell = (found.atoms.cell.array, found.atoms.get_scaled_positions(), found.atoms.numbers)
    assert spglib.get_symmetry_dataset(cell, symprec=1e-4).number == 229


def test_held_atoms_stay() -> None:
    slab = fcc111("Cu", (1, 1, 4), a=A_EMT, vacuum=6.0)
    slab.set_constraint(FixAtoms([0, 1]))
    found = relax(slab, EMT(), RelaxSettings(fmax=0.005))
    assert found.converged
    np.testing.assert_array_equal(found.atoms.positions[:2], slab.positions[:2])
    assert np.abs(found.atoms.positions[2:] - slab.positions[2:]).max() > 0.005
    assert found.atoms.constraints


def test_what_stays_unrelaxed_says_why() -> None:
    found = relax(rattled(), EMT(), RelaxSettings(fmax=1e-6, max_steps=3))
    assert (found.converged, found.steps, found.reason) == (False, 3, "not converged in 3 steps")


class Collapsing(Calculator):  # type: ignore[misc]
    """A calculator in which less volume is always less energy."""

    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        volume = self.atoms.get_volume()
        self.results = {
            "energy": 2.0 * volume, "forces": np.zeros((len(self.atoms), 3)), "stress": np.array([2.0, 2, 2, 0, 0, 0])
        }  # fmt: skip


class Failing(Collapsing):
    """A calculator that fails, at the second structure or at once, or gives numbers that are none."""

    def __init__(self, good: int, how: str) -> None:
        super().__init__()
        self.good, self.how = good, how

    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.good -= 1
        if self.good < 0 and self.how == "raise":
            raise RuntimeError("no self-consistency")
        if self.good < 0:
            self.results["energy"] = np.nan


def test_unstable_and_failing_structures() -> None:
    full = RelaxSettings(cell="full")
    assert "the cell collapses" in relax(bulk("Cu"), Collapsing(), full).reason
    assert relax(rattled(), Failing(3, "raise"), full).reason == "RuntimeError: no self-consistency"
    assert "not finite" in relax(rattled(), Failing(3, "nan"), full).reason
    with pytest.raises(StageError, match="cannot be computed: RuntimeError: no self-consistency"):
        relax(rattled(), Failing(0, "raise"), full)
    with pytest.raises(DataError, match="H2O: cell: full needs a cell that is periodic in three directions"):
        relax(molecule("H2O"), EMT(), full)


class Stressless(EMT):  # type: ignore[misc]
    """A calculator without stress."""

    def get_property(self, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "stress":
            raise PropertyNotImplementedError(name)
        return super().get_property(name, *arguments, **options)


def test_calculators_without_stress() -> None:
    found = relax(rattled(), Stressless(), RelaxSettings())
    assert found.converged
    assert found.after.stress is None  # type: ignore[union-attr]
    with pytest.raises(StageError, match="no stress is given, which a cell that moves needs: use cell: fixed"):
        relax(rattled(), Stressless(), RelaxSettings(cell="full"))


def test_many_with_a_table(tmp_path: Path) -> None:
    structures = [rattled(), bulk("Cu", cubic=True), molecule("CO")]
    for atoms, name in zip(structures, ("rattled", "perfect", "molecule"), strict=True):
        atoms.info["name"] = name
    said: list[tuple[float, float, str]] = []
    found = run_relax(
        config(fmax=1e-3), structures, lambda atoms: EMT(), tmp_path, progress=lambda *news: said.append(news)
    )
    assert [one.converged for one in found] == [True, True, True]
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["structure"], row["atoms"], row["converged"]) for row in rows] == [
        ("rattled", "8", "yes"), ("perfect", "4", "yes"), ("molecule", "2", "yes"),
    ]  # fmt: skip
    assert float(rows[0]["energy_after_eV"]) < float(rows[0]["energy_before_eV"])
    assert float(rows[0]["fmax_after_eV_A"]) <= 1e-3 < float(rows[0]["fmax_before_eV_A"])
    assert (rows[1]["steps"], rows[2]["volume_after_A3"], rows[2]["a_A"]) == ("0", "", "")
    frames = read(tmp_path / "relaxed.extxyz", index=":")
    assert [atoms.info["name"] for atoms in frames] == ["rattled", "perfect", "molecule"]
    assert frames[0].info["dpsim_energy"] == pytest.approx(found[0].after.energy, abs=1e-7)  # type: ignore[union-attr]
    assert said[0][:2] == (0, 3)
    assert said[-1] == (3, 3, "structures relaxed")


def test_failures_are_tolerated_or_not(tmp_path: Path) -> None:
    structures = [rattled(), bulk("Cu", cubic=True)]
    options = {"fmax": 1e-6, "max_steps": 2}
    with pytest.raises(StageError, match=r"1 of 2 structures are not relaxed \(.*: not converged in 2 steps\).*: 50 %"):
        run_relax(config(**options), structures, lambda atoms: EMT(), tmp_path)
    found = run_relax(config(**options, tolerate_failures="50 %"), structures, lambda atoms: EMT(), tmp_path)
    assert [one.converged for one in found] == [False, True]


def test_a_stopped_run_goes_on_behind_what_is_done(tmp_path: Path) -> None:
    structures = [rattled(), rattled(3.6)]

    def stop(done: float, total: float, message: str) -> None:
        if done == 1:
            raise Interrupted("stopped")

    made: list[int] = []

    def source(atoms: Any) -> Any:
        made.append(len(atoms))
        return EMT()

    with pytest.raises(Interrupted):
        run_relax(config(), structures, source, tmp_path / "out", work=tmp_path / "work", progress=stop)
    assert not (tmp_path / "out").exists()
    made.clear()
    found = run_relax(config(), structures, source, tmp_path / "out", work=tmp_path / "work")
    assert len(made) == len(structures) + 1  # the check of each, and the calculator of the second
    plain = run_relax(config(), structures, source, tmp_path / "other")
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)
        assert one.after.energy == other.after.energy  # type: ignore[union-attr]


@pytest.mark.parametrize("good", [0, 3])
def test_a_calculation_that_failed_is_done_again(good: int, tmp_path: Path) -> None:
    """A failure has a cause that may be gone, at the first structure or on the way; too few steps stay too few."""
    folders = {"out": tmp_path / "out", "work": tmp_path / "work"}
    with pytest.raises(StageError, match="no self-consistency"):
        run_relax(config(cell="full"), [rattled()], lambda atoms: Failing(good, "raise"), **folders)
    assert run_relax(config(cell="full"), [rattled()], lambda atoms: EMT(), **folders)[0].converged
    made: list[int] = []

    def source(atoms: Any) -> Any:
        made.append(len(atoms))
        return EMT()

    folders["work"] = tmp_path / "short"
    for calculators in (2, 3):  # the check of each attempt, and the calculator of the first
        with pytest.raises(StageError, match="not converged in 2 steps"):
            run_relax(config(fmax=1e-6, max_steps=2), [rattled()], source, **folders)
        assert len(made) == calculators


def test_a_model_and_what_it_does_not_know(pair_model: Path, tmp_path: Path) -> None:
    """Lennard-Jones has its minimum at a known distance; the potential, its file and a calculator say the same."""
    source = model_source(pair_model)
    settings = RelaxSettings(cell="full", fmax=1e-4, stress_max=5.0)
    found = relax(bulk("Cu", a=3.7), source, settings)
    assert found.converged
    assert found.atoms.cell.lengths()[0] * 2**0.5 == pytest.approx(3.6032, abs=1e-3)
    for other in (dpsim.load(pair_model), dpsim.DPCalculator(pair_model)):
        assert relax(bulk("Cu", a=3.7), other, settings).after.energy == found.after.energy  # type: ignore[union-attr]
    gold = bulk("Au")
    gold.info["name"] = "gold"
    with pytest.raises(DataError, match=r"gold contains Au \(atom 0\), but the model knows only Cu"):
        run_relax(config(), [bulk("Cu"), gold], source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_calculators_of_the_label_stage_refuse_what_they_do_not_know() -> None:
    from data_tools.calculators import EMTConfig

    with pytest.raises(DataError, match="emt has no parameters for Fe"):
        relax(bulk("Fe"), calculator_source(EMTConfig()), RelaxSettings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pressure": "1 GPa"}, "pressure has no effect on a cell whose volume is kept"),
        ({"cell": "shape", "pressure": "1 GPa"}, "pressure has no effect"),
        ({"optimizer": "CG"}, "optimizer CG is one of LAMMPS"),
        ({"engine": "lammps", "cell": "shape"}, "shape keeps the volume, which LAMMPS cannot"),
        ({"engine": "lammps", "keep_symmetry": True}, "keep_symmetry is done by engine: ase"),
        ({"engine": "lammps", "cell": "full", "optimizer": "FIRE"}, "optimizer FIRE is none of LAMMPS for cell: full"),
        ({"fmax": 0}, "greater than 0"),
        ({"fmax": "0.1 eV"}, "unit 'eV'"),
        ({"cell": "ful"}, "'fixed', 'volume', 'shape' or 'full'"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)
