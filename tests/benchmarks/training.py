"""Training steps a second and peak memory of a model on 192-atom water; beside DeePMD-kit where it is installed.

    python tests/benchmarks/training.py [--model dpa3-l6] [--threads 1] [--seconds 20] [--data FOLDER] [--peer DP]

Prints one JSON line. The time of a step is the time from the end of one to the end of the next, after a warm-up,
batches and neighbour lists included, validation and checkpoints not. Without `--data` the frames are water
molecules on a lattice, turned at random, with random forces: right for speed, not for learning. `--peer` names
the executable `dp` of another environment; it trains the same model on the same frames with the same number of
threads, and `ratio` is its median step over ours. A GPU is not used.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.data import Frame, open_dataset, write_npy
from dpsim.model.presets import PRESETS
from dpsim.train.config import TrainConfig, resolve_model

TYPE_MAP = ("O", "H")
PEER_STEP = re.compile(r"[Bb]atch\s+\d+: total wall time")


def water(number: int, seed: int = 0) -> list[Frame]:
    """Boxes of 64 molecules at 1 g/cm³."""
    rng = np.random.default_rng(seed)
    edge = (64 * 29.9) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) * edge / 4
    molecule = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])
    frames = []
    for _ in range(number):
        turns = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
        positions = (grid[:, None] + molecule @ turns + rng.normal(scale=0.1, size=(64, 1, 3))).reshape(-1, 3)
        labels = {"energy": rng.normal(-30_000, 1), "forces": rng.normal(size=(192, 3))}
        frames.append(
            Frame(positions, np.tile([0, 1, 1], 64), np.eye(3) * edge, {k: np.asarray(v) for k, v in labels.items()})
        )
    return frames


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and range of times."""
    ordered = sorted(seconds)
    return {
        "n": len(ordered), "median": round(statistics.median(ordered), 5), "min": round(ordered[0], 5),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 5),
    }  # fmt: skip


def ours(
    config: TrainConfig, data: Path, folder: Path, warmup: int, seconds: float, threads: int
) -> tuple[list[float], float]:
    """Wall seconds of each step of dpsim, as its own trainer makes them, and CPU seconds of one."""
    from dpsim.errors import Interrupted
    from dpsim.train.trainer import train

    marks: list[tuple[float, float]] = []

    def enough() -> bool:
        marks.append((time.perf_counter(), time.process_time()))
        return len(marks) > warmup + 10 and marks[-1][0] - marks[warmup][0] > seconds

    with contextlib.suppress(Interrupted):
        train(config, folder, train_data=data, stop=enough, threads=threads, device="cpu")
    wall = [b[0] - a[0] for a, b in itertools.pairwise(marks[warmup:])]
    return wall, (marks[-1][1] - marks[warmup][1]) / len(wall)


def peer_input(config: TrainConfig, systems: Sequence[Path], steps: int) -> dict[str, Any]:
    """The same training in the peer's words."""
    model = resolve_model(config, TYPE_MAP)
    repflow = model.descriptor.repflow.model_dump(mode="json")
    if not repflow["sequential_update"]:
        del repflow["sequential_update"]  # not known to every release
    descriptor = {
        "type": "dpa3", "repflow": repflow, "activation_function": model.descriptor.activation_function,
        "precision": model.descriptor.precision, "concat_output_tebd": model.descriptor.concat_output_tebd,
        "use_tebd_bias": model.descriptor.use_tebd_bias, "seed": 1,
    }  # fmt: skip
    fitting = model.fitting.model_dump(mode="json")
    loss = {
        f"{end}_pref_{short}": pair[k]
        for short, pair in (("e", config.loss.energy), ("f", config.loss.forces), ("v", config.loss.virial))
        for k, end in enumerate(("start", "limit"))
    }
    return {
        "model": {"type_map": list(TYPE_MAP), "descriptor": descriptor, "fitting_net": {**fitting, "seed": 1}},
        "learning_rate": {"type": "exp", "start_lr": config.learning_rate.start, "stop_lr": config.learning_rate.final},
        "loss": {"type": "ener", **loss},
        "optimizer": {"type": config.optimizer.type, "weight_decay": config.optimizer.decay},
        "training": {
            "training_data": {"systems": [str(path) for path in systems], "batch_size": config.batch_size},
            "numb_steps": steps, "disp_freq": 1, "save_freq": steps, "seed": 1,
            "gradient_max_norm": config.gradient_max_norm,
        },
    }  # fmt: skip


def peer(dp: str, config: TrainConfig, data: Path, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Time of the peer's steps, from the moments at which it reports them, and its peak memory."""
    folder.mkdir()
    systems = [system.path.resolve() for system in open_dataset(data, TYPE_MAP).systems]
    (folder / "input.json").write_text(json.dumps(peer_input(config, systems, steps), indent=1))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["PATH"] = os.pathsep.join([str(Path(dp).resolve().parent), environment.get("PATH", "")])
    marks, log = [], folder / "log.txt"
    command = [dp, "--pt", "train", "input.json", "--skip-neighbor-stat"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in process.stdout or ():
            file.write(line)
            if PEER_STEP.search(line):
                marks.append(time.perf_counter())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(marks) < 5:
        tail = "".join(log.read_text().splitlines(keepends=True)[-12:])
        raise SystemExit(f"{dp} made {len(marks)} steps and ended with code {process.returncode}:\n{tail}")
    warm = marks[2:]
    return {
        "seconds": spread([b - a for a, b in itertools.pairwise(warm)]),
        "peak_memory_mb": usage.ru_maxrss // 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-small", choices=list(PRESETS))
    parser.add_argument("--batch", type=int, default=1, help="frames in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--seconds", type=float, default=20.0, help="measure for at least this long, and ten steps")
    parser.add_argument("--data", type=Path, help="folder of O/H systems instead of made-up water")
    parser.add_argument("--peer", help="the executable dp of an environment with DeePMD-kit")
    parser.add_argument("--peer-steps", type=int, default=15)
    parser.add_argument("--log", action="store_true", help="print the log of the training to stderr")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = TrainConfig(
        model=options.model, steps=1_000_000, batch_size=options.batch, log_every=10, validate_every=1_000_000,
        checkpoint_every=1_000_000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch, "water")
        if options.data is None:
            write_npy(water(4), data, TYPE_MAP)
        print(json.dumps(measure(options, config, data, Path(scratch))))


def measure(options: argparse.Namespace, config: TrainConfig, data: Path, scratch: Path) -> dict[str, Any]:
    """Everything that is printed."""
    import resource

    import torch

    import dpsim
    from dpsim import ops

    seconds, cpu = ours(config, data, scratch / "ours", options.warmup, options.seconds, options.threads)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    step = spread(seconds)
    result: dict[str, Any] = {
        "benchmark": "training", "model": options.model, "batch": options.batch,
        "atoms": open_dataset(data, TYPE_MAP)[0].n_atoms, "dtype": resolve_model(config, TYPE_MAP).descriptor.precision,
        "threads": options.threads, "native_operators": ops.unavailable_reason() is None,
        "steps_per_second": round(1 / step["median"], 3), "seconds": step, "cpu_seconds": round(cpu, 5),
        "peak_memory_mb": memory,
        "load": [round(x, 1) for x in os.getloadavg()], "machine": platform.machine(), "cpus": os.cpu_count(),
        "torch": torch.__version__, "dpsim": dpsim.__version__,
    }  # fmt: skip
    if options.peer:
        result["peer"] = peer(options.peer, config, data, scratch / "peer", options.peer_steps, options.threads)
        result["ratio"] = round(result["peer"]["seconds"]["median"] / step["median"], 2)
    return result


if __name__ == "__main__":
    main()
