"""Molecular dynamics with several models: the table of their deviation, and a limit that ends the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from deck_table import liquid
from ensembles import swapped

from dpsim.calculators.deviation import model_deviation
from dpsim.calculators.evaluate import load
from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.lammps import run_md
from dpsim.errors import StageError

pytestmark = pytest.mark.lammps


def _config(limit: float | None = None, then: str = "end") -> MDConfig:
    nve = {"ensemble": "nve", "temperature": "300 K", "timestep": "0.2 fs", "steps": 12, "dump": {"every": "4 steps"}}
    return MDConfig.model_validate(
        {
            "start": {"frames": "x"},
            "run": [{"ensemble": "minimize", "steps": 3}, nve],
            "deviation": {"every": "4 steps"},
            "checkpoint": {"every": "8 steps"},
            "stop_if": {} if limit is None else {"max_deviation_force": limit, "then": then},
        }
    )


def test_run(model64: Path, tmp_path: Path) -> None:
    """Numbers are those of the frames; the steps of a minimisation are not among them."""
    from ase import Atoms

    system = liquid(24, 7.0)
    start = Atoms(system.symbols, system.positions, cell=system.cell, pbc=True)
    models = [model64, swapped(model64, tmp_path / "other.pt2")]

    def run(name: str, *limit):
        work, out = tmp_path / name, tmp_path / f"{name}-out"
        return run_md(_config(*limit), start, models, work, out, type_map=("O", "H"), ranks=2)

    result = run("free")
    table = np.loadtxt(result.analysis.with_name("model_devi.out"))
    assert table[:, 0].tolist() == [0, 4, 8, 12]
    frames = read(result.trajectory, index=":")
    assert [frame.info["step"] for frame in frames] == [0, 4, 8, 12]
    found = model_deviation([load(model) for model in models], frames)
    np.testing.assert_allclose(table[:, 1:], [one.columns for one in found], rtol=1e-6, atol=1e-9)
    assert result.summary["deviation"]["lines"] == 4
    np.testing.assert_allclose(result.summary["deviation"]["max_devi_f"]["max"], table[:, 4].max(), rtol=1e-9)
    with pytest.raises(StageError, match=r"at step 0: the models deviate by .* passes stop_if\.max_deviation_force"):
        run("limited", 0.5 * table[:, 4].min(), "fail")
    assert not (tmp_path / "limited-out").exists()

    limit = 0.999 * table[1:, 4].max()
    first = int(table[:, 0][table[:, 4] > limit][0])
    ended = run("limited", limit)
    assert ended.summary["stopped"]["step"] == first
    assert ended.summary["stopped"]["reason"].startswith("the models deviate by")
    np.testing.assert_allclose(
        np.loadtxt(ended.analysis.with_name("model_devi.out"), ndmin=2), table[table[:, 0] <= first]
    )
    assert [frame.info["step"] for frame in read(ended.trajectory, index=":")] == [
        s for s in (0, 4, 8, 12) if s <= first
    ]
    assert "stopped" not in run("limited", 1e6).summary  # another limit: it goes on, or begins again
