"""A model in LAMMPS on a GPU: right numbers, speed, memory, and the ways of messages between ranks; writes a table.

    python tests/benchmarks/gpu.py [--device cuda] [--model dpa3-l6] [--atoms 1000 10000 100000] [--steps 20]
                                   [--output FOLDER] [--lmp LMP [--mpirun MPIRUN]]

The table goes to ``lammps_<hardware>_<date>.md`` in FOLDER (default: that of this script), and one JSON line for each
figure to the standard output. In order:

- correctness: energy, forces and virial of 192-atom water from LAMMPS on the device, in float64 and float32, on one
  rank and two, against PyTorch on the CPU in float64;
- speed and memory: NVE steps of water boxes with about so many atoms, in float32 on one rank, until one does not fit;
- two ranks on one device: messages through host memory (``mpi host``) and straight from device memory (``mpi device``).

Parameters are random, and the energy is scaled down so that the water stays where it is. ``--lmp`` names a LAMMPS of
your own, for which ``dpsim lammps build --lammps-source`` has made the plugin; only one whose MPI is CUDA-aware can
send device memory, that of the Python packages cannot. ``--device cpu --atoms 200`` goes through all without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import machine
from water import TYPE_MAP, water, write_lammps

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.export.compile import compile_model
from dpsim.lammps.trial import command
from dpsim.model.presets import PRESETS, preset
from dpsim.version import __version__

CELL = 192
"""Atoms of the box that is copied."""
BAR = 1.6021765e6
"""LAMMPS's factor from eV/Å³ to bar."""
LIMITS = {"float64": 1e-10, "float32": 1e-4}
"""Relative to the largest value."""
Runner = Callable[[str, int], str]
Row = dict[str, Any]


def copies(atoms: int) -> tuple[int, int, int]:
    """How often the box is copied along each axis to have about so many atoms."""
    wanted = max(1.0, atoms / CELL)
    best = min(
        ((x, y, z) for x in range(1, 12) for y in (x, x + 1) for z in (y, y + 1)),
        key=lambda n: (abs(np.log(n[0] * n[1] * n[2] / wanted)), n),
    )
    return best


def deck(model: str, words: str, n: tuple[int, int, int], run: str, load: Path | None) -> str:
    """Input of LAMMPS."""
    return "\n".join(
        [
            "units metal", f'plugin load "{load}"' if load else "", "neighbor 2.0 bin",
            "neigh_modify every 10 delay 0 check no", "read_data water.data", f"replicate {n[0]} {n[1]} {n[2]}",
            f"pair_style dpsim {model} {words}", "pair_coeff * * O H", run, "",
        ]
    )  # fmt: skip


MEASURE = """compute p all pressure NULL virial
thermo_style custom step pe c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6] vol
dump 1 all custom 1 forces.dump id fx fy fz
dump_modify 1 sort id format float %.17g
run 0
print "$(pe:%.17g) $(c_p[1]:%.17g) $(c_p[2]:%.17g) $(c_p[3]:%.17g) $(c_p[4]:%.17g) $(c_p[5]:%.17g) $(c_p[6]:%.17g) &
 $(vol:%.17g)" file totals.txt
"""


class Failed(Exception):
    """A run ended with an error; its sentence."""


class Lammps:
    """Runs decks in a folder."""

    def __init__(self, folder: Path, lmp: Path | None, mpirun: Path | None) -> None:
        self.folder, self.lmp, self.mpirun = folder, lmp, mpirun

    def run(self, model: str, words: str, n: tuple[int, int, int], lines: str, ranks: int = 1) -> str:
        """What LAMMPS printed."""
        how = command(ranks, self.lmp, self.mpirun)
        (self.folder / "in.gpu").write_text(deck(model, words, n, lines, how.load))
        argv = [*how.argv, "-in", "in.gpu", "-log", "none"]
        done = subprocess.run(argv, cwd=self.folder, env=how.env, capture_output=True, text=True, errors="replace")
        text = done.stdout + done.stderr
        if done.returncode:
            errors = [line for line in text.splitlines() if line.startswith("ERROR")]
            raise Failed(re.sub(r"^ERROR[^:]*: ", "", (errors or text.strip().splitlines()[-1:] or ["no output"])[0]))
        return text


# ---- the three questions -------------------------------------------------------------------------


def correctness(lammps: Lammps, expected: Any) -> list[Row]:
    """Largest differences from PyTorch on the CPU, relative to the largest values."""
    rows = []
    for dtype in LIMITS:
        for ranks in (1, 2):
            lammps.run(f"{dtype}.pt2", "", (1, 1, 1), MEASURE, ranks)
            totals = np.array((lammps.folder / "totals.txt").read_text().split(), dtype=float)
            forces = np.loadtxt(lammps.folder / "forces.dump", skiprows=9)[:, 1:]
            virial = totals[1:7] * totals[7] / BAR
            wanted = expected.virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
            worst = {
                "energy": abs(totals[0] - expected.energy) / abs(expected.energy),
                "forces": np.abs(forces - expected.forces).max() / np.abs(expected.forces).max(),
                "virial": np.abs(virial - wanted).max() / np.abs(wanted).max(),
            }
            errors = {k: float(f"{v:.1e}") for k, v in worst.items()}
            ok = bool(max(worst.values()) < LIMITS[dtype])
            rows.append(
                {"question": "correctness", "dtype": dtype, "ranks": ranks, **errors, "limit": LIMITS[dtype], "ok": ok}
            )
    return rows


def measured(lammps: Lammps, words: str, atoms: int, steps: int, ranks: int, device: str) -> Row:
    """Time and memory of MD steps."""
    n = copies(atoms)
    lines = "velocity all create 330.0 4928 loop geom\nfix 1 all nve\ntimestep 0.0001\nrun 3\n" + f"run {steps}"
    text = lammps.run("float32.pt2", f"verbose yes {words}", n, lines, ranks)
    seconds = float(re.findall(r"^Loop time of (\S+) on", text, re.MULTILINE)[1]) / steps
    kind = "peak GPU memory of the model" if device == "cuda" else "peak memory of the process"
    report = re.findall(rf"{kind} \(MB\) \S+/(\S+)/(\S+)$", text, re.MULTILINE)[-1]
    total, exchanges = re.findall(r"in a step: (\d+) in (\d+) exchanges", text)[-1]
    count = CELL * n[0] * n[1] * n[2]
    memory = float(report[0]) * ranks
    return {
        "atoms": count, "ranks": ranks, "seconds_a_step": round(seconds, 6), "steps_a_second": round(1 / seconds, 3),
        "microseconds_an_atom": round(1e6 * seconds / count, 2), "memory_mb": round(memory),
        "kb_an_atom": round(1024 * memory / count, 1), "halo_bytes_a_step": int(total), "exchanges": int(exchanges),
        "messages": re.findall(r"feature rows between ranks through (.*)$", text, re.MULTILINE)[-1],
    }  # fmt: skip


def sizes(lammps: Lammps, atoms: list[int], steps: int, device: str) -> list[Row]:
    """Speed of boxes from small to large, until one does not fit."""
    rows: list[Row] = []
    for number in sorted(atoms):
        try:
            rows.append({"question": "speed", **measured(lammps, "", number, steps, 1, device)})
        except Failed as reason:
            rows.append({"question": "speed", "atoms": number, "failed": str(reason)})
            break
    return rows


def routes(lammps: Lammps, atoms: int, steps: int, device: str) -> list[Row]:
    """Two ranks on one device."""
    rows: list[Row] = []
    for route in ("host", "device"):
        try:
            rows.append(
                {"question": "messages", "mpi": route, **measured(lammps, f"mpi {route}", atoms, steps, 2, device)}
            )
        except Failed as reason:
            rows.append({"question": "messages", "mpi": route, "atoms": atoms, "failed": str(reason)})
    return rows


# ---- the table -----------------------------------------------------------------------------------


def hardware(device: str) -> str:
    """Name of what it ran on, as a word."""
    name = torch.cuda.get_device_name(0) if device == "cuda" else f"cpu{len(os.sched_getaffinity(0))}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(rows: list[Row], question: str) -> list[str]:
    """Rows of one question as Markdown."""
    found = [{k: v for k, v in row.items() if k != "question"} for row in rows if row["question"] == question]
    names = list(dict.fromkeys(name for row in found for name in row))
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in found]


def document(rows: list[Row], options: argparse.Namespace) -> str:
    """The file."""
    about = machine()
    where = torch.cuda.get_device_name(0) if options.device == "cuda" else "no GPU: the model ran on the CPU"
    atoms = " ".join(map(str, options.atoms))
    return "\n".join(
        [
            f"# {options.model} on water in LAMMPS, {hardware(options.device)}, {date.today()}", "",
            f"Machine: {where}; {about['cpus']} cores of {about['cpu']}, load {about['load'][0]}. "
            f"dpsim {__version__}, torch {torch.__version__} (CUDA {torch.version.cuda}).",
            f"Command: `python tests/benchmarks/gpu.py --device {options.device} --model {options.model} "
            f"--atoms {atoms} --steps {options.steps}`", "",
            "## Against PyTorch on the CPU in float64, relative to the largest value", "",
            *table(rows, "correctness"), "",
            f"## NVE steps in float32, mean of {options.steps}", "", *table(rows, "speed"), "",
            "## Two ranks on one device", "", *table(rows, "messages"), "",
        ]
    )  # fmt: skip


def freeze(name: str, device: str, folder: Path) -> Any:
    """Write ``float32.pt2`` and ``float64.pt2``; returns what PyTorch says of the water box."""
    model = preset(name, TYPE_MAP).build(1)
    with torch.no_grad():
        for network in model.fitting.networks:
            network.output.weight.mul_(1e-3)
    frame = water(1)[0]
    assert frame.cell is not None
    model = model.with_precision("float64")
    positions = np.round(frame.positions % frame.cell[0, 0], 10)  # as in the data file
    cell = np.round(frame.cell, 10)
    expected = Potential(ModuleEngine(model, "cpu"), name).evaluate(positions, frame.types, cell)
    for dtype in LIMITS:
        compile_model(model.with_precision(dtype), folder / f"{dtype}.pt2", device=device)
    return expected


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="dpa3-l6", choices=list(PRESETS))
    parser.add_argument("--atoms", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--lmp", type=Path, help="a LAMMPS of your own")
    parser.add_argument("--mpirun", type=Path, help="what starts it on ranks")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; try everything without one by --device cpu --atoms 200")
    begin = time.perf_counter()
    rows: list[Row] = []

    def done(some: list[Row]) -> None:
        rows.extend(some)
        for row in some:
            print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lammps(folder / "water.data")
        lammps = Lammps(folder, options.lmp, options.mpirun)
        expected = freeze(options.model, options.device, folder)
        done(correctness(lammps, expected))
        done(sizes(lammps, options.atoms, options.steps, options.device))
        done(routes(lammps, min(options.atoms), options.steps, options.device))
    path = options.output / f"lammps_{hardware(options.device)}_{date.today()}.md"
    path.write_text(document(rows, options))
    print(json.dumps({"written": str(path), "seconds": round(time.perf_counter() - begin)}))
    if not all(row.get("ok", True) for row in rows):
        raise SystemExit("the numbers of LAMMPS are not those of PyTorch; see the table")


if __name__ == "__main__":
    main()
