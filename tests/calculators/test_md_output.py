"""Logs that grow, dumps that were cut short, several attempts made one run; without running LAMMPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from dpsim.calculators.lammps_data import lammps_box
from dpsim.calculators.md.config import MDConfig
from dpsim.calculators.md.deck import Attempt, dump_name, spans
from dpsim.calculators.md.output import (
    LogFollower,
    Trajectory,
    log_name,
    merged_thermo,
    read_dump,
    read_error,
)

ROW = "  - [{0}, {1}, 300, -10, 1, -9, 5, 64, ]\n"


def config() -> MDConfig:
    nvt = {
        "ensemble": "nvt",
        "temperature": 300,
        "steps": 40,
        "timestep": "1 fs",
        "thermo": {"every": 10},
        "dump": {"every": 10},
    }
    nve = {"ensemble": "nve", "steps": 20, "thermo": {"every": 10}, "dump": {"every": 10}}
    return MDConfig.model_validate({"start": "a.xyz", "run": [nvt, nve]})


def log(path: Path, segment: int, *steps: int) -> None:
    with path.open("a") as file:
        file.write(f"dpsim segment {segment}\nkeywords: ['Step', ]\n")
        file.writelines(ROW.format(step, step * 0.001) for step in steps)


def snapshot(step: int, x: float, box: str = "pp pp pp\n0 4\n0 4\n0 4") -> str:
    head = f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS {box}\n"
    return f"{head}ITEM: ATOMS id element xu yu zu\n1 H {x} 0 0\n"


def test_log_is_followed_line_by_line(tmp_path: Path) -> None:
    follower = LogFollower(tmp_path / "log")
    assert follower.poll() == []
    log(tmp_path / "log", 0, 0, 10)
    assert [row.step for row in follower.poll()] == [0, 10]
    with (tmp_path / "log").open("a") as file:
        file.write("  - [20, 0.02, nan, -10,")
        file.flush()
        assert follower.poll() == []
        file.write(
            " 1, -9, 5, 64, ]\nLoop time of 0.5 on 2 procs for 20 steps with 1 atoms\n"
            "ERROR on proc 1: Lost atoms (x.cpp:1)\nERROR: second\n"
        )
    (row,) = follower.poll()
    assert (row.segment, row.step, row.finite) == (0, 20, False)
    assert (follower.loop_seconds, follower.loop_steps, follower.finished) == (0.5, 20, False)
    assert follower.error == "Lost atoms (x.cpp:1)"
    with (tmp_path / "log").open("a") as file:
        file.write("dpsim finished\n")
    assert follower.poll() == []
    assert follower.finished


def test_first_error_on_the_screen(tmp_path: Path) -> None:
    assert read_error(tmp_path / "none") is None
    (tmp_path / "screen").write_text("hello\nERROR: no such file\n")
    assert read_error(tmp_path / "screen") == "no such file"


def test_thermo_of_attempts_is_joined(tmp_path: Path) -> None:
    layout = spans(config())
    log(tmp_path / log_name(1), 0, 0, 10, 15, 20, 30)  # killed after 30, last checkpoint at 15
    log(tmp_path / log_name(2), 0, 15, 20, 30, 40)
    log(tmp_path / log_name(2), 1, 40, 50)  # killed, last checkpoint at 40: the second segment begins anew
    log(tmp_path / log_name(3), 1, 40, 50, 60)
    attempts = [Attempt(1, 0, 0), Attempt(2, 0, 15), Attempt(3, 1, 40)]
    rows = merged_thermo(tmp_path, attempts, layout)
    assert [(row.segment, row.step) for row in rows] == [(0, s) for s in (0, 10, 20, 30, 40)] + [
        (1, s) for s in (40, 50, 60)
    ]


def test_frames_of_attempts_are_joined(tmp_path: Path) -> None:
    start = Atoms("H", cell=[4, 4, 4], pbc=True)
    attempts = (Attempt(1, 0, 0), Attempt(2, 0, 15))
    cut = snapshot(30, 3.0)[:-4]
    (tmp_path / dump_name(0, 1)).write_text(snapshot(0, 0.0) + snapshot(10, 1.0) + snapshot(20, 99.0) + cut)
    (tmp_path / dump_name(0, 2)).write_text("".join(snapshot(step, step / 10) for step in (20, 30, 40)))
    (tmp_path / dump_name(1, 2)).write_text("".join(snapshot(step, step / 10) for step in (40, 50, 60)))
    trajectory = Trajectory(tmp_path, attempts, spans(config()), start, lammps_box(start))
    frames = list(trajectory.frames())
    assert [(f.segment, f.step) for f in frames] == [(0, 0), (0, 10), (0, 20), (0, 30), (0, 40), (1, 50), (1, 60)]
    assert [f.atoms.positions[0, 0] for f in frames] == [0, 1, 2, 3, 4, 5, 6]
    assert [f.time for f in frames] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert [f.step for f in trajectory.frames([1])] == [50, 60]


@pytest.mark.parametrize("cut", [3, 40, 120, 150])
def test_snapshot_cut_short_ends_the_dump(tmp_path: Path, cut: int) -> None:
    text = snapshot(0, 0.0)
    (tmp_path / "dump").write_text(text + text[: min(cut, len(text) - 2)])
    assert len(list(read_dump(tmp_path / "dump"))) == 1


def test_triclinic_bounds_give_the_cell_back(tmp_path: Path) -> None:
    # Lengths 4, 5, 6 with tilts 1, -2, 0.5 and the corner at (1, 1, 1), as LAMMPS bounds them.
    box = "xy xz yz pp pp pp\n-1 6 1\n1 6.5 -2\n1 7 0.5"
    (tmp_path / "dump").write_text(snapshot(0, 0.0, box))
    (frame,) = read_dump(tmp_path / "dump")
    assert np.allclose(frame.vectors, [[4, 0, 0], [1, 5, 0], [-2, 0.5, 6]])
    assert np.allclose(frame.origin, [1, 1, 1])
