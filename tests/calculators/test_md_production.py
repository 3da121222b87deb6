"""The recipe ``md-production.yaml`` with a classical potential instead of its model, much shorter, stopped once."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.lammps import run_lammps
from dpsim.calculators.md.start import start_structure
from dpsim.errors import Interrupted
from dpsim.report.blocks import Section
from dpsim.report.build import build_report
from dpsim.workflow.planning.load import load

pytestmark = pytest.mark.lammps


def test_stopped_and_resumed_on_two_ranks(
    tmp_path: Path, launcher: Callable[..., tuple[list[str], dict[str, str]]], copper_lines: list[str]
) -> None:
    plan = load(Path(str(files("dpsim.recipes") / "md-production.yaml")), check_files=False)
    task = plan.workflow.tasks["production"]
    assert task.resources.ranks == 2
    stage: Any = task.config
    whole = MDConfig.model_validate({name: getattr(stage, name) for name in MDConfig.model_fields})
    assert [s.ensemble for s in whole.run] == ["npt", "npt", "nvt", "nve", "nve"]
    often = {"every": "2 steps"}
    short = tuple(
        s.model_copy(
            update={
                "time": s.time / 40,
                "dump": s.dump.model_copy(update=often),
                "thermo": s.thermo.model_copy(update=often),
            }
        )
        for s in whole.run
    )
    config = whole.model_copy(
        update={"run": short, "checkpoint": whole.checkpoint.model_copy(update={"every": "20 steps"})}
    )
    start = start_structure(whole.start, seed=1)
    work, out = tmp_path / "work", tmp_path / "out"

    def run(progress: Any = None) -> Any:
        return run_lammps(
            config, start, copper_lines, work, out, elements=("Cu",), ranks=2, seed=1, launcher=launcher,
            progress=progress,
        )  # fmt: skip

    def stop(*_: Any, **__: Any) -> None:
        if list(work.glob("checkpoint-*.restart")):
            raise Interrupted("stopped by a signal")

    with pytest.raises(Interrupted):
        run(stop)
    result = run()
    assert result.attempts == 2
    summary = json.loads(result.analysis.read_text())
    assert [s["time_ps"] for s in summary["segments"]] == pytest.approx([s.time for s in short], abs=0.0021)
    assert {"rdf", "msd", "vdos", "density", "drift"} <= set(summary)
    assert list(summary["drift"]["segments"]) == ["3", "4"]
    assert summary["density"]["density_g_cm3"]["mean"] == pytest.approx(8.9, abs=0.3)
    steps = np.genfromtxt(result.thermo, delimiter=",", names=True, dtype=None, encoding="utf-8")["step"]
    assert steps[-1] == sum(s.n_steps for s in short)
    page = build_report([Section("production", "md", out)], tmp_path / "report").read_text()
    for figure in (
        "Vibrational density of states",
        "Density over time",
        "Mean squared displacement",
        "Energy conservation",
    ):
        assert figure in page
