"""Whether steps are those of DeePMD-kit, and how much of an error after equally many steps is chance.

    python tests/benchmarks/equal_steps.py DATA --output FOLDER --peer PYTHON [--set si] [--losses 200]
    python tests/benchmarks/equal_steps.py DATA --output FOLDER --peer PYTHON [--set si] --seeds 1 2 3 --steps 1140

`DATA` is the folder of the reference data sets, `PYTHON` that of an environment with DeePMD-kit; inputs are those of
`accuracy.py`. With ``--losses N`` the other side makes N steps in float64 with batches of one frame or few; dpsim
starts from its first state, takes its batches, and the losses are compared step by step: as they are, and with weights
of the loss rounded to single precision, as the other side has them. With ``--seeds`` two trainings are made for each
seed: one from the first state and with the batches of the other side, which stands for its own training (``--losses``
shows that it is the same), and one from dpsim's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import accuracy
import numpy as np
import torch

from dpsim import ops
from dpsim.model.checkpoint import save_model
from dpsim.model.peer.inputs.auto_sel import resolve_sel
from dpsim.model.peer.inputs.input import read_input
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.compile import CompiledModel
from dpsim.train.compile.package import ensure, request_for
from dpsim.train.config import TrainConfig
from dpsim.train.loss import make_loss
from dpsim.train.optimizers.schedule import prefactor
from dpsim.train.records.running import Clock
from dpsim.train.records.state import read_model
from dpsim.train.step import GradientStep

SMALL_BATCHES = "auto:64"
"""Of the comparison of losses, so that steps are quick."""
SIDES = ("peer", "dpsim")
Batches = list[tuple[int, list[int]]]


def seeded(text: dict[str, Any], seed: int, steps: int, **training: Any) -> dict[str, Any]:
    """An input with another seed."""
    text = json.loads(json.dumps(text))
    for part in ("descriptor", "fitting_net"):
        text["model"][part]["seed"] = seed
    text["training"] |= {"seed": seed, "numb_steps": steps, **training}
    return text


def of_peer(python: str, text: dict[str, Any], folder: Path, what: str) -> Batches:
    """First state (a file) and batches of the other side."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "batches.json").is_file():
        (folder / "input.json").write_text(json.dumps(text, indent=1))
        accuracy.run([python, str(Path(__file__).with_name("peer_steps.py")), what], folder)
    return [(system, frames) for system, frames in json.loads((folder / "batches.json").read_text())]


def replayed(folder: Path, batches: Batches, *, compiled: bool = False) -> Iterator[float]:
    """Loss of each step of dpsim from the first state of the other side, with its batches; then writes the model.

    With `compiled` steps are as quick as those of a training.
    """
    found = read_input(folder / "input.json")
    config = TrainConfig.model_validate(resolve_sel(found))
    model = read_model(folder / "first.pt")
    frames = FrameSet(found.train_systems, found.type_map)
    systems, loss = frames.systems(), make_loss(config.loss, model)
    make = BatchMaker.for_model(frames, model, loss.labels, 1 << 30)
    if compiled:
        package = ensure(request_for(model, True, config.matrix_products), lambda seconds: None)
        model.compiled = CompiledModel.load(model, package, True)
    step = GradientStep(config, loss, list(model.parameters()), Clock())
    for number, (system, chosen) in enumerate(batches):
        yield step([make([int(systems[system][k]) for k in chosen])], number).loss
    save_model(model, folder / "replayed.safetensors", {})


def compare_losses(case: str, steps: int, options: argparse.Namespace) -> None:
    """Print the greatest difference of the losses of both sides."""
    folder = options.output / f"losses-{steps}"
    text = seeded(accuracy.document(case, options, options.output), 1, steps, disp_freq=steps)
    text["training"]["training_data"]["batch_size"] = SMALL_BATCHES
    for part in ("descriptor", "fitting_net"):
        text["model"][part]["precision"] = "float64"
    batches = of_peer(options.peer, text, folder, "train")
    theirs = json.loads((folder / "losses.json").read_text())
    for how, weight in (("as they are", prefactor), ("weights rounded", lambda *a: float(np.float32(prefactor(*a))))):
        with mock.patch("dpsim.train.step.prefactor", weight):
            ours = list(replayed(folder, batches))
        differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
        for until in (1, 10, steps):
            worst = max(differences[:until])
            print(f"{case}, {how}: greatest relative difference of losses, steps 1 to {until}: {worst:.1e}")


def compare_seeds(case: str, options: argparse.Namespace) -> None:
    """Print the errors of both sides for each seed, and their means and deviations."""
    tests = {k: accuracy.prepared(options.data / v, options.output, accuracy.type_map(case))
             for k, v in accuracy.SETS[case].tests.items()}  # fmt: skip
    rows: dict[tuple[str, str], list[dict[str, float]]] = {(part, side): [] for part in tests for side in SIDES}
    for seed in options.seeds:
        text = seeded(accuracy.document(case, options, options.output), seed, options.steps)
        folder = options.output / f"peer-{seed}-{options.steps}"
        batches = of_peer(options.peer, text, folder, "order")
        if not (folder / "replayed.safetensors").is_file():
            deque(replayed(folder, batches, compiled=True), maxlen=0)
        for part, found in accuracy.errors(folder / "replayed.safetensors", tests, folder).items():
            rows[part, "peer"].append(found)
        folder = options.output / f"dpsim-{seed}-{options.steps}"
        model = folder / "out" / "last.safetensors"
        if not model.is_file():
            accuracy.train("dpsim", None, text, options.steps, folder)
        for part, found in accuracy.errors(model, tests, folder).items():
            rows[part, "dpsim"].append(found)
    for (part, side), each in rows.items():
        for key in ("energy_rmse", "forces_rmse"):
            values = [one[key] for one in each]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{case} {part}, {side}, {key}: {', '.join(f'{v:.1f}' for v in values)}; "
                  f"mean {statistics.mean(values):.1f}, deviation {spread:.1f}")  # fmt: skip


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference data sets")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--peer", required=True, help="python of an environment with DeePMD-kit")
    parser.add_argument("--set", choices=list(accuracy.SETS), default="si")
    parser.add_argument("--losses", type=int, help="steps whose losses are compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--steps", type=int, default=1140, help="of a training for each seed")
    options = parser.parse_args()
    options.data, options.output = options.data.resolve(), options.output.resolve() / options.set
    options.output.mkdir(parents=True, exist_ok=True)
    if not (options.losses or options.seeds):
        parser.error("nothing to compare: give --losses or --seeds")
    ops.keep_memory()
    torch.set_num_threads(1)
    if options.losses:
        compare_losses(options.set, options.losses, options)
    if options.seeds:
        compare_seeds(options.set, options)


if __name__ == "__main__":
    sys.exit(main())
