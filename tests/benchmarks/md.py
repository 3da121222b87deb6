"""MD steps a second and memory through LAMMPS on water; beside DeePMD-kit where it is installed.

    python tests/benchmarks/md.py [--model dpa3-l6] [--layout 1x2 --layout 2x1] [--steps 10] [--replicate 1]
                                  [--compressed] [--peer DP [--kept]]

Prints one JSON line for each side and layout (ranks x threads). A model is an ``input.json`` of `inputs`. Parameters
are random and the energy of ours is scaled down, so that the water stays where it is; the time of a step does not
depend on that. Both sides run NVE for the same number of steps after three that are not counted, with the same deck
but for the pair style. `--peer` names the executable `dp` of another environment: its model is trained for one step,
frozen and run by its own `lmp`; with `--kept` a second time with glibc told to keep memory. Memory is the largest
resident size of a rank. `ratio` compares the best layouts of both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from peer import Peer
from processes import Run, machine, run
from training import MODELS, prepare, sides
from water import write_lammps

LOOP = re.compile(r"Loop time of ([0-9.eE+-]+) on (\d+) procs for (\d+) steps with (\d+) atoms")
CPU = re.compile(r"^([0-9.]+)% CPU use", re.MULTILINE)


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


def freeze_ours(folder: Path, compressed: bool) -> None:
    """Write the model of ``input.json`` with random parameters as ``model.pt2``."""
    import torch

    from dpsim.cli.models.train import Start, read_peer_input
    from dpsim.export.compile import compile_model
    from dpsim.model.compress import compress
    from dpsim.train.config import TrainConfig, resolve_model

    request = read_peer_input(folder / "input.json", (), Start(None, False, None, False))
    assert request.type_map is not None
    model: Any = resolve_model(TrainConfig.model_validate(request.settings), request.type_map).build(1)
    with torch.no_grad():
        for network in model.fitting.networks:
            network.output.weight.mul_(1e-3)
    compile_model(compress(model, 0.8).model if compressed else model, folder / "model.pt2")


def facts(done: Run) -> dict[str, Any]:
    """Times and memory of a run of LAMMPS, by its own account of the second ``run``."""
    loops = LOOP.findall(done.output)
    if len(loops) != 2:
        raise SystemExit(f"LAMMPS made {len(loops)} runs, expected 2:\n{done.output[-1500:]}")
    seconds, ranks, steps, atoms = loops[1]
    busy = float(CPU.findall(done.output)[-1]) / 100 * int(ranks)
    return {
        "atoms": int(atoms),
        "seconds_a_step": round(float(seconds) / int(steps), 5),
        "cpu_seconds_a_step": round(float(seconds) / int(steps) * busy, 5),
        "peak_memory_mb": done.peak_memory_mb,
    }


def ours(folder: Path, ranks: int, threads: int, steps: int, replicate: int) -> dict[str, Any]:
    """Run dpsim's plugin."""
    from dpsim.lammps.launcher import lammps_command

    (folder / "in.dpsim").write_text(deck("pair_style dpsim model.pt2", steps, replicate))
    argv, env = lammps_command(ranks, folder / "in.dpsim", threads=threads, log="none")
    return facts(run(argv, folder, env))


def prepare_peer(peer: Peer, model: str, folder: Path, compressed: bool) -> None:
    """Train and freeze a model of the peer, and write its deck's model name."""
    prepare(model, folder, 1)
    peer.train(folder, 1, {}, statistics=compressed)
    write_lammps(folder / "water.data")
    (folder / "model.txt").write_text(peer.freeze(folder, compress=compressed))


def measure(
    model: str, layouts: list[tuple[int, int]], steps: int, replicate: int, compressed: bool, dp: str | None, kept: bool
) -> list[dict[str, Any]]:
    """One row for each side and layout."""
    rows: list[dict[str, Any]] = []

    def add(side: str, ranks: int, threads: int, found: dict[str, Any]) -> None:
        layout = {"ranks": ranks, "threads": threads}
        rows.append({"benchmark": "md", "model": model, "compressed": compressed, "side": side, **layout, **found})

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "dpsim")
        prepare(model, folder, 1)
        write_lammps(folder / "water.data")
        # in a process of its own, as what a compiler leaves behind is no part of the memory of a run
        freezing = [sys.executable, __file__, "--freeze", str(folder), *(["--compressed"] if compressed else [])]
        run(freezing, folder, {**os.environ, "OMP_NUM_THREADS": "1"})
        for ranks, threads in layouts:
            add("dpsim", ranks, threads, ours(folder, ranks, threads, steps, replicate))
        if dp:
            peer, folder = Peer(dp), Path(scratch, "peer")
            prepare_peer(peer, model, folder, compressed)
            pair = f"pair_style deepmd {(folder / 'model.txt').read_text()}"
            (folder / "in.peer").write_text(deck(pair, steps, replicate))
            for side, extra in sides(dp, kept):
                for ranks, threads in layouts:
                    add(side, ranks, threads, facts(peer.lammps(folder, "in.peer", ranks, threads, extra)))
    best = {
        side: min(row["seconds_a_step"] for row in rows if row["side"] == side) for side in {r["side"] for r in rows}
    }
    for row in rows:
        if row["side"] != "dpsim":
            row["ratio"] = round(best[row["side"]] / best["dpsim"], 2)
    return rows


def layout(text: str) -> tuple[int, int]:
    """Ranks and threads from ``2x1``."""
    ranks, threads = text.split("x")
    return int(ranks), int(threads)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-l6", choices=MODELS)
    parser.add_argument("--layout", type=layout, action="append", metavar="RxT", help="ranks x threads; repeatable")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--replicate", type=int, default=1, help="copies of the box along each axis")
    parser.add_argument("--compressed", action="store_true", help="tables instead of embedding networks")
    parser.add_argument("--peer", help="executable dp of another environment")
    parser.add_argument("--kept", action="store_true", help="the peer also with an allocator that keeps memory")
    parser.add_argument("--freeze", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.freeze:
        return freeze_ours(options.freeze, options.compressed)
    rows = measure(
        options.model, options.layout or [(1, 2), (2, 1)], options.steps, options.replicate, options.compressed,
        options.peer, options.kept,
    )  # fmt: skip
    for row in rows:
        print(json.dumps({**row, **machine()}), flush=True)


if __name__ == "__main__":
    main()
