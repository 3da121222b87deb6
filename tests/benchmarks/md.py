"""MD steps a second of a model on 192-atom water through LAMMPS; beside DeePMD-kit where it is installed.

    python tests/benchmarks/md.py [--model dpa3-l6] [--ranks 1] [--steps 20] [--replicate 1] [--peer DP]

Prints one JSON line. Parameters are random and their energy is scaled down, so that the water stays where it is;
the time of a step does not depend on that. Both sides run NVE for the same number of steps after three that are not
counted, one thread a rank, with the same deck but for the pair style. `--peer` names the executable `dp` of another
environment: its own model of the same size is trained for one step, frozen and run by its own `lmp`; `ratio` is its
time of a step over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path

import torch
from training import peer_input, water

from dpsim.data import write_npy
from dpsim.export.compile import compile_model
from dpsim.lammps.launcher import lammps_command
from dpsim.model.presets import PRESETS, preset
from dpsim.train.config import TrainConfig

TYPE_MAP = ("O", "H")
LOOP = re.compile(r"Loop time of ([0-9.eE+-]+) on")


def deck(pair: str, steps: int, replicate: int) -> str:
    """Input of LAMMPS; the pair lines are given."""
    return "\n".join(
        [
            "units metal", "atom_style atomic", "atom_modify map yes", "neighbor 2.0 bin",
            "neigh_modify every 10 delay 0 check no", "read_data water.data",
            f"replicate {replicate} {replicate} {replicate}", pair, "pair_coeff * * O H",
            "velocity all create 330.0 23456789", "fix 1 all nve", "timestep 0.0001", f"thermo {steps}",
            "run 3", f"run {steps}", "",
        ]
    )  # fmt: skip


def write_water(path: Path) -> None:
    """One frame of `training.water` as a LAMMPS data file."""
    frame = water(1)[0]
    assert frame.cell is not None
    lines = ["water", "", "192 atoms", "2 atom types", ""]
    lines += [f"0.0 {frame.cell[i, i]:.10f} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    lines += ["", "Masses", "", "1 15.999", "2 1.008", "", "Atoms # atomic", ""]
    atoms = zip(frame.types, frame.positions % frame.cell[0, 0], strict=True)
    lines += [f"{i} {t + 1} {x:.10f} {y:.10f} {z:.10f}" for i, (t, (x, y, z)) in enumerate(atoms, 1)]
    path.write_text("\n".join(lines) + "\n")


def seconds_a_step(argv: list[str], env: dict[str, str] | None, folder: Path, steps: int) -> float:
    """Run LAMMPS and read the loop time of the second run."""
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    loops = LOOP.findall(done.stdout)
    if done.returncode or len(loops) != 2:
        raise SystemExit(f"{argv} ended with code {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return float(loops[1]) / steps


def ours(name: str, folder: Path, ranks: int, steps: int, replicate: int) -> float:
    """Seconds a step of dpsim."""
    model = preset(name, TYPE_MAP).build(1)
    with torch.no_grad():
        for network in model.fitting.networks:
            network.output.weight.mul_(1e-3)
    compile_model(model, folder / "model.pt2")
    (folder / "in.dpsim").write_text(deck("pair_style dpsim model.pt2", steps, replicate))
    argv, env = lammps_command(ranks, folder / "in.dpsim")
    return seconds_a_step(argv, env, folder, steps)


def peer(dp: str, name: str, folder: Path, ranks: int, steps: int, replicate: int) -> float:
    """Seconds a step of DeePMD-kit on a model of the same size."""
    home = Path(dp).resolve().parent
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DP_INTRA_OP_PARALLELISM_THREADS": "1"}
    env["DP_INTER_OP_PARALLELISM_THREADS"] = "1"
    env["PATH"] = os.pathsep.join([str(home), env.get("PATH", "")])
    cuda = sorted(
        home.parent.glob("lib/python3*/site-packages/nvidia/*/lib")
    )  # its LAMMPS library wants cudart even on a CPU
    env["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, cuda), env.get("LD_LIBRARY_PATH", "")])
    config = TrainConfig.model_validate({"model": {"preset": name}, "steps": 1, "batch_size": 1})
    data = [Path(path).resolve() for path in write_npy(water(4), folder / "data", TYPE_MAP)]
    (folder / "input.json").write_text(json.dumps(peer_input(config, data, 1)))
    for command in (["train", "input.json", "--skip-neighbor-stat"], ["freeze", "-o", "peer.pth"]):
        done = subprocess.run([dp, "--pt", *command], cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"dp {command[0]} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    (folder / "in.peer").write_text(deck("pair_style deepmd peer.pth", steps, replicate))
    argv = [str(home / "mpiexec"), "-n", str(ranks), str(home / "lmp"), "-in", "in.peer", "-log", "none"]
    return seconds_a_step(argv, env, folder, steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-small", choices=list(PRESETS))
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--replicate", type=int, default=1, help="copies of the box along each axis")
    parser.add_argument("--peer", help="executable dp of another environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_water(folder / "water.data")
        arguments = (options.model, folder, options.ranks, options.steps, options.replicate)
        result: dict[str, object] = {
            "benchmark": "md", "model": options.model, "atoms": 192 * options.replicate**3, "ranks": options.ranks,
            "device": "cpu", "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
            "load": os.getloadavg()[0],
        }  # fmt: skip
        step = ours(*arguments)
        result |= {"seconds_a_step": round(step, 5), "steps_a_second": round(1 / step, 3)}
        if options.peer:
            other = peer(options.peer, *arguments)
            result |= {"peer_seconds_a_step": round(other, 5), "ratio": round(other / step, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
