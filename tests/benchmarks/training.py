"""Training steps a second and peak memory on 192-atom water; beside DeePMD-kit where it is installed.

    python tests/benchmarks/training.py [--model dpa3-l6] [--threads 2] [--steps 20] [--compile] [--peer DP [--kept]]

Prints one JSON line for each side. A model is an ``input.json`` of `inputs`, which both sides are given. Each training
is a process of its own: `to_first_step` is the time from its start to the end of the first step, `seconds` that from
the end of a step to the end of the next after a warm-up, batches, neighbour lists and log included. `--peer` names
the executable `dp` of another environment; `--kept` trains the peer a second time with glibc told by environment
variables to keep memory, as dpsim does by itself. `--compile` trains with dpsim a second time with a compiled step
(`dpsim.train.compile`); its `ratio` is of CPU seconds, plain over compiled, and `to_first_step_before` the time to the
first step where the step had to be compiled.
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
from processes import KEPT, Run, machine, run
from water import TYPE_MAP, water

from dpsim.data import write_npy

HERE = Path(__file__).parent
MODELS = sorted(path.stem for path in (HERE / "inputs").glob("*.json"))


def prepare(model: str, folder: Path, steps: int) -> dict[str, Any]:
    """Write data and ``input.json`` of a training into a new folder."""
    folder.mkdir()
    systems = write_npy(water(4), folder / "water", TYPE_MAP)
    tree: dict[str, Any] = json.loads((HERE / "inputs" / f"{model}.json").read_text())
    tree["training"] |= {"numb_steps": steps}
    tree["training"]["training_data"]["systems"] = [str(path.resolve()) for path in systems]
    (folder / "input.json").write_text(json.dumps(tree, indent=1))
    return tree


def ours(folder: Path, threads: int, compiled: str = "auto", output: str = "trained") -> Run:
    """Train with dpsim."""
    argv = [sys.executable, str(HERE / "train_steps.py"), "input.json", output, str(threads), compiled]
    return run(argv, folder, {**os.environ, "OMP_NUM_THREADS": str(threads)}, re.compile("^step done$"), 1)


def sides(dp: str | None, kept: bool) -> list[tuple[str, dict[str, str]]]:
    """Names of the sides beside ours, with variables of their environment."""
    found: list[tuple[str, dict[str, str]]] = [("peer", {}), ("peer, kept", KEPT)]
    return found[: 1 + kept] if dp else []


def facts(done: Run, warmup: int) -> dict[str, Any]:
    """What is said of a training."""
    return {
        "to_first_step": round(done.marks[0][0], 2),
        "seconds": done.steps(warmup),
        "peak_memory_mb": done.peak_memory_mb,
    }


def compiled(folder: Path, threads: int, warmup: int) -> dict[str, Any]:
    """What is said of dpsim with a compiled step; the first of two trainings compiles it, unless that was done."""
    first = ours(folder, threads, "true", "first")
    return {
        "to_first_step_before": round(first.marks[0][0], 2),
        **facts(ours(folder, threads, "true", "second"), warmup),
    }


def measure(
    model: str, threads: int, steps: int, warmup: int, dp: str | None, kept: bool, both: bool
) -> list[dict[str, Any]]:
    """One row for each side."""
    with tempfile.TemporaryDirectory() as scratch:
        common = {"benchmark": "training", "model": model, "atoms": 192, "threads": threads}
        folder = Path(scratch, "dpsim")
        prepare(model, folder, steps)
        rows = [{**common, "side": "dpsim", **facts(ours(folder, threads), warmup)}]
        first = rows[0]
        if both:
            found = compiled(folder, threads, warmup)
            found["ratio"] = round(first["seconds"]["cpu"] / found["seconds"]["cpu"], 2)
            rows.append({**common, "side": "dpsim, compiled", **found})
        for side, extra in sides(dp, kept):
            folder = Path(scratch, side)
            prepare(model, folder, steps)
            found = facts(Peer(dp or "").train(folder, threads, extra), warmup)
            found["ratio"] = round(found["seconds"]["median"] / first["seconds"]["median"], 2)
            found["memory_ratio"] = round(found["peak_memory_mb"] / first["peak_memory_mb"], 2)
            rows.append({**common, "side": side, **found})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-l6", choices=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--peer", help="the executable dp of an environment with DeePMD-kit")
    parser.add_argument("--kept", action="store_true", help="the peer also with an allocator that keeps memory")
    parser.add_argument("--compile", action="store_true", help="dpsim also with a compiled step")
    options = parser.parse_args()
    settings = options.model, options.threads, options.steps, options.warmup, options.peer, options.kept
    for row in measure(*settings, options.compile):
        print(json.dumps({**row, **machine()}), flush=True)


if __name__ == "__main__":
    main()
