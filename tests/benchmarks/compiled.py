"""A plain and a compiled step of a preset on 192-atom water, alternately in one process, and the memory of each.

    python tests/benchmarks/compiled.py [--model dpa3-tiny] [--precision float32] [--seconds 30]

Prints one JSON line. A step is the prediction of energy, forces and virial, a loss of all of them, and its gradient, on
one thread; times are CPU seconds, so that a busy machine matters less. Memory is the largest resident size of a process
that makes steps of one kind only. `compile_cpu_seconds` is left out where the package was there.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import machine
from water import TYPE_MAP, water

from dpsim.model.presets import PRESETS, preset

SIDES = ("plain", "compiled")


def model_of(name: str, precision: str) -> Any:
    """A preset with parameters from a seed."""
    import torch

    from dpsim import ops

    ops.keep_memory()
    ops.load()
    torch.set_num_threads(1)
    return preset(name, TYPE_MAP).with_precision(precision).build(1)


def compiled(model: Any) -> tuple[Any, float | None]:
    """The compiled step of a model, and CPU seconds that compiling took."""
    from dpsim.train.compile.package import ensure, request_for, steps_dir
    from dpsim.train.compile.run import CompiledModel, difference

    request = request_for(model, True, "full")
    there = (steps_dir() / f"{request.key}.pt2").is_file()
    before = cpu_of_children()
    step = CompiledModel.load(model, ensure(request, lambda seconds: None, retry=True), True)
    if difference(step, model) > 1:
        raise SystemExit("the compiled step differs from the plain one")
    return step, None if there else round(cpu_of_children() - before, 1)


def cpu_of_children() -> float:
    """CPU seconds of processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def step_of(model: Any) -> Callable[[], None]:
    """Makes one step."""
    from dpsim.physics.neighborhood import collate
    from dpsim.physics.neighbors import frame_graph

    (frame,) = water(1)
    hood = collate([frame_graph(frame.positions, frame.types, frame.cell, model.neighbors)])
    parameters = list(model.parameters())

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        found = model.derivatives(hood, 1, create_graph=True)
        (1e-9 * found.energy.square().sum() + found.forces.square().sum() + found.virial.square().mean()).backward()

    return step


def cpu_seconds(step: Callable[[], None]) -> float:
    """CPU time of one step."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def times(name: str, precision: str, seconds: float) -> dict[str, Any]:
    """CPU time of steps of both kinds, made alternately."""
    model = model_of(name, precision)
    fast, compile_seconds = compiled(model)
    step = step_of(model)
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    begin = time.process_time()
    while time.process_time() - begin < seconds or len(found["plain"]) < 5:
        for side in SIDES:
            model.compiled = fast if side == "compiled" else None
            found[side].append(cpu_seconds(step))
    medians = {side: statistics.median(values[1:]) for side, values in found.items()}
    result = {f"{side}_cpu_seconds": round(median, 5) for side, median in medians.items()}
    result |= {"n": len(found["plain"]) - 1, "ratio": round(medians["plain"] / medians["compiled"], 2)}
    return result if compile_seconds is None else {**result, "compile_cpu_seconds": compile_seconds}


def memory(name: str, precision: str, side: str) -> int:
    """Largest resident size of this process, in MB, when it has made steps of one kind."""
    model = model_of(name, precision)
    model.compiled = compiled(model)[0] if side == "compiled" else None
    step = step_of(model)
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-tiny", choices=list(PRESETS))
    parser.add_argument("--precision", default="float32", choices=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    what = options.model, options.precision
    if options.memory_of:
        print(memory(*what, options.memory_of))
        return
    result = {"benchmark": "compiled", "model": what[0], "precision": what[1], "atoms": 192}
    result |= times(*what, options.seconds)
    own = [sys.executable, str(Path(__file__)), "--model", what[0], "--precision", what[1]]
    for side in SIDES:
        said = subprocess.run([*own, "--memory-of", side], capture_output=True, text=True, check=True).stdout
        result[f"{side}_peak_memory_mb"] = int(said.split()[-1])
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
