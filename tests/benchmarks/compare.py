"""All figures of speed and memory beside DeePMD-kit, in one run; a Markdown table at the end.

    python tests/benchmarks/compare.py --peer DP [--model dpa3-l6] [--output rows.jsonl]

Run it on a quiet machine with two cores. Training with two threads and start to first step; MD of 192 atoms on
one rank of two threads and two ranks of one; each with the peer as it comes and with glibc told to keep memory; for
DPA-3 also MD of 1536 atoms of ours alone, the efficiency of its second rank, and the distance to the floor
of the arithmetic. Models by name as often as `--model` is given.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import floor
import md
import training
from processes import machine

Rows = list[dict[str, Any]]
TWO_CORES = [(1, 2), (2, 1)]
COMPRESSIBLE = ("se-e2-a",)
"""Models whose MD is measured with tables as well."""
STEPS = {"dpa3-l6": (20, 10), "dpa2-small": (60, 20), "se-e2-a": (200, 60)}
"""Training and MD steps; few where the peer takes long."""


def of_model(model: str, dp: str | None) -> Rows:
    """All rows of a model."""
    train_steps, md_steps = STEPS.get(model, (20, 10))
    rows = training.measure(model, 2, train_steps, 3, dp, dp is not None, True)
    for compressed in (False, True) if model in COMPRESSIBLE else (False,):
        rows += md.measure(model, TWO_CORES, md_steps, 1, compressed, dp, dp is not None)
    if model.startswith("dpa3"):
        large = md.measure(model, [(1, 1), (2, 1)], 3, 2, False, None, False)
        one, two = (row["seconds_a_step"] for row in large)
        large[1]["efficiency"] = round(one / two / 2, 3)
        rows += large
        lowest = floor.floors(model, 2)
        rows.append(lowest)
        for row in rows:
            if row.get("side") == "dpsim" and row["atoms"] == 192:
                least = lowest[f"{row['benchmark']}_seconds"]
                row["distance_to_floor"] = round(seconds_of(row) / least, 2)
    return rows


def seconds_of(row: dict[str, Any]) -> float:
    """Seconds of a step."""
    return float(row["seconds"]["median"] if "seconds" in row else row["seconds_a_step"])


def table(rows: Rows) -> str:
    """Markdown."""
    columns = ("model", "figure", "side", "s a step", "CPU s a step", "peak MB", "ratio", "further")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        if row["benchmark"] == "floor":
            continue
        if row["benchmark"] == "training":
            figure, cpu = f"training, {row['threads']} threads", row["seconds"]["cpu"]
        else:
            tables = ", tables" if row["compressed"] else ""
            figure = f"MD {row['atoms']} atoms, {row['ranks']} x {row['threads']}{tables}"
            cpu = row["cpu_seconds_a_step"]
        named = ("to_first_step", "memory_ratio", "efficiency", "distance_to_floor")
        further = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in named if name in row)
        cells = (row["model"], figure, row["side"], f"{seconds_of(row):.3f}", cpu, row["peak_memory_mb"])
        lines.append(f"| {' | '.join(map(str, cells))} | {row.get('ratio', '')} | {further} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="executable dp of another environment; without it, ours alone")
    parser.add_argument("--model", action="append", choices=training.MODELS, help="repeatable  [default: all]")
    parser.add_argument("--output", type=Path, help="file for the rows, one JSON a line")
    options = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    rows: Rows = []
    for model in options.model or training.MODELS:
        rows += of_model(model, options.peer)
        if options.output:
            options.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        print(json.dumps(row))
    print(table(rows), json.dumps(machine()), sep="\n")


if __name__ == "__main__":
    main()
