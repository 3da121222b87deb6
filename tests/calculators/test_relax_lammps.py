"""Relaxation with LAMMPS ends where that of ASE ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.constraints import FixAtoms

from data_tools.calculators import EAMConfig
from dpsim.calculators.statics.relax import is_relaxed, relax, state_of
from dpsim.calculators.statics.relax_config import RelaxConfig, RelaxSettings
from dpsim.calculators.statics.relax_lammps import minimized, relax_lammps
from dpsim.calculators.statics.relax_run import run_relax
from dpsim.calculators.statics.source import calculator_source, evaluate
from dpsim.errors import ConfigError, DataError, StageError

EAM = calculator_source(EAMConfig(potential="Cu_mishin1.eam.alloy"))


@pytest.fixture
def rattled() -> Any:
    """A crystal that does not lie as LAMMPS wants it."""
    atoms = bulk("Cu", cubic=True, a=3.66).repeat((2, 2, 2))
    atoms.rattle(0.05, seed=3)
    atoms.rotate(20, (1, 2, 3), rotate_cell=True)
    return atoms


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "FIRE"}, {"cell": "volume", "pressure": "2 GPa"}, {"cell": "full", "pressure": "-1 GPa"}],
)
def test_lammps_and_ase_end_alike(options: Any, rattled: Any, copper_lines: list[str], tmp_path: Path) -> None:
    settings = RelaxSettings(fmax=2e-3, stress_max=50.0, **{k: v for k, v in options.items() if k != "optimizer"})
    of_lammps = settings.model_copy(update={"optimizer": options.get("optimizer")})
    told: list[int] = []
    done, steps = minimized(
        rattled, copper_lines, ("Cu",), of_lammps, tmp_path / "l", ranks=2, on_step=lambda step, fmax: told.append(step)
    )
    state, other = state_of(done, evaluate(done, EAM(done))), relax(rattled, EAM, settings)
    assert is_relaxed(state, settings)
    assert other.converged
    assert 5 < steps < 500
    assert state.energy == pytest.approx(other.after.energy, abs=2e-3)  # type: ignore[union-attr]
    assert state.volume == pytest.approx(other.after.volume, rel=1e-3)  # type: ignore[union-attr]


def test_what_lammps_says_is_passed_on(rattled: Any, launcher: object, tmp_path: Path) -> None:
    lines = ["pair_style eam/alloy", "pair_coeff * * nowhere.eam.alloy Cu"]
    with pytest.raises(StageError, match=r"LAMMPS could not relax .*: .*nowhere.eam.alloy"):
        minimized(rattled, lines, ("Cu",), RelaxSettings(), tmp_path / "l")


def test_lammps_needs_a_frozen_model_and_free_atoms(rattled: Any, pair_model: Path, tmp_path: Path) -> None:
    config = RelaxConfig.model_validate({"on": "a.b", "engine": "lammps"})
    with pytest.raises(ConfigError, match=r"engine: lammps runs a frozen model: give a .pt2 file"):
        run_relax(config, [rattled], EAM, tmp_path, model=pair_model)
    rattled.set_constraint(FixAtoms([0]))
    with pytest.raises(DataError, match="atoms are held, which engine: lammps does not know"):
        relax_lammps(rattled, EAM, config, tmp_path / "m.pt2", tmp_path / "l")
