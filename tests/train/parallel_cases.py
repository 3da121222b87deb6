"""What two processes do together, compared with one; run by ``torchrun`` from test_parallel_training.py.

``parallel_cases.py FOLDER`` writes FOLDER/cases.json: by the name of a case, numbers that its test judges.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpsim.data import Frame
from dpsim.descriptors import SeE2AConfig
from dpsim.errors import DataError, StageError
from dpsim.model.checkpoint import load_any, state_digest
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.loss import make_loss
from dpsim.train.optimizers.gradients import Gradients
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.parallel.joining import Head, Joint
from dpsim.train.parallel.launcher import joined
from dpsim.train.records.running import Clock
from dpsim.train.step import GradientStep, KalmanStep
from dpsim.train.trainer import train

TYPE_MAP = ("O", "H")
SHARES = [[[0, 2, 5], [1, 3, 4, 6]], [[4], [0, 1, 2, 3, 5, 6]], [[6, 1, 0], [2, 3, 4, 5]]]
"""Frames of the two processes."""
WITHOUT = {0: ("forces",), 1: ("virial", "property", "drdq"), 2: ("energy", "atomic_population"),
           3: ("force_weight", "virial", "dipole", "atomic_energy"),
           4: ("forces", "virial", "atomic_dipole", "hessian"),
           6: ("virial", "drdq", "dos", "energy_coefficient")}  # fmt: skip
"""Labels that frames do not have."""
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "energies": ({}, {"energy": 1, "forces": 100, "virial": 1, "atomic_energy": 1}),
    "huber": ({}, {"type": "huber", "energy": 1, "forces": 10, "virial": 1}),
    "absolute": ({}, {"type": "mae", "energy": 1, "forces": 10, "virial": 1, "force_norm": True}),
    "weighted": ({}, {"energy": 1, "forces": 0, "weighted_forces": 5, "generalized_forces": 2,
                      "energy_coefficients": True}),
    "hessian": ({}, {"energy": 1, "forces": 1, "hessian": 0.1}),
    "dipole": ({"type": "dipole"}, {"type": "tensor", "total": 1, "atomic": 0.5}),
    "dos": ({"type": "dos", "numb_dos": 3}, {"type": "dos", "dos": 1, "cumulative": 0.3, "atomic_dos": 0}),
    **{f"property {name}": ({"type": "property", "property_name": "gap", "task_dim": 2},
                            {"type": "property", "function": name}) for name in ("smooth_mae", "rmse", "mape")},
    **{f"population {name}": ({"type": "population"}, {"type": "population", "function": name})
       for name in ("smooth_mae", "rmse")},
}  # fmt: skip


class Frames(list[Frame]):
    """What `BatchMaker` asks of frames."""

    def n_atoms(self, i: int) -> int:
        return self[i].n_atoms


def frames() -> Frames:
    rng, found = np.random.default_rng(3), Frames()
    for k in range(7):
        n = 3 + k % 4
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * 1.7
        shapes: dict[str, tuple[int, ...]] = {
            "energy": (), "forces": (n, 3), "virial": (3, 3), "atomic_energy": (n,), "force_weight": (n,),
            "drdq": (n, 3, 2), "energy_coefficient": (n,), "hessian": (3 * n, 3 * n), "dipole": (3,),
            "atomic_dipole": (n, 3), "dos": (3,), "property": (2,), "atomic_population": (n, 2),
        }  # fmt: skip
        labels = {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        labels["force_weight"] = np.abs(labels["force_weight"])
        for name in WITHOUT.get(k, ()):
            del labels[name]
        found.append(Frame(grid + rng.uniform(-0.3, 0.3, grid.shape), rng.permutation(np.arange(n) % 2), None, labels))
    return found


def config_of(name: str, **changes: Any) -> TrainConfig:
    fitting, loss = LOSSES[name]
    model = {"descriptor": SeE2AConfig.tiny(), "fitting": {"neuron": [6], "activation_function": "tanh", **fitting}}
    return TrainConfig(
        **{"model": model, "loss": loss, "steps": 9, "precision": "float64", "gradient_max_norm": 0.0, **changes}
    )


def gradient(
    config: TrainConfig,
    batches: Sequence[Sequence[int]],
    workers: Workers,
    head: Head | None = None,
    others: Sequence[TrainConfig] = (),
) -> tuple[float, torch.Tensor, list[bool]]:
    """Loss and gradient of a step with batches of frames of this process, and which parameters have one.

    Of a filter, the way of the parameters instead. `others` are those of all heads, if there are several.
    """
    model = resolve_model(config, TYPE_MAP).build(1)
    loss, parameters = make_loss(config.loss, model), list(model.parameters())
    maker = BatchMaker(frames(), model.neighbors, labels=loss.labels)  # type: ignore[arg-type]
    joint = Joint(workers, [make_loss(one.loss, model) for one in others] or [loss])
    kind: Any = KalmanStep if config.optimizer.type == "LKF" else GradientStep
    extra = (config.optimizer,) if kind is KalmanStep else ()
    step = kind(config, *extra, loss, parameters, Clock(), joint)
    step.head = head or Head()
    before = [p.detach().clone() for p in parameters]
    found = dict(joint.outcomes(step.head, step([maker(batch) for batch in batches], 0)))
    value = found[step.head].loss
    if kind is KalmanStep:
        return value, torch.cat([(p - old).detach().flatten() for p, old in zip(parameters, before, strict=True)]), []
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return value, torch.cat([g.flatten() for g in grads]), [p.grad is not None for p in parameters]


def compared(config: TrainConfig, workers: Workers, parts: int = 1) -> dict[str, Any]:
    """Largest differences between two processes and one, relative to the gradient, over several shares."""
    loss, expected, there = gradient(config, [list(range(7))], ALONE)
    worst: dict[str, Any] = {"loss": 0.0, "gradient": 0.0, "length": expected.norm().item(), "same": True}
    for share in SHARES:
        own = share[workers.rank]
        cut = [own] if parts == 1 or len(own) == 1 else [own[:1], own[1:]]
        other, found, has = gradient(config, cut, workers, Head(0, workers.number))
        worst["loss"] = max(worst["loss"], abs(other - loss) / abs(loss))
        worst["gradient"] = max(worst["gradient"], ((found - expected).norm() / expected.norm()).item())
        worst["same"] = worst["same"] and has == there
    return worst


def two_heads(workers: Workers) -> dict[str, Any]:
    """Each process works on a head of its own: the gradient is the mean of both."""
    configs = [config_of("energies"), config_of("energies", loss={"type": "huber", "energy": 1, "forces": 0})]
    batches = [[0, 1, 5], [3, 4]]
    alone = [gradient(config, [batch], ALONE) for config, batch in zip(configs, batches, strict=True)]
    rank = workers.rank
    value, found, has = gradient(configs[rank], [batches[rank]], workers, Head(rank, 1), configs)
    expected = (alone[0][1] + alone[1][1]) / 2
    same = has == [a or b for a, b in zip(alone[0][2], alone[1][2], strict=True)]
    worst = max(workers.gather(abs(value - alone[rank][0]) / abs(value)))
    error = ((found - expected).norm() / expected.norm()).item()
    return {"loss": worst, "gradient": error, "length": expected.norm().item(), "same": same}


def unused(workers: Workers) -> dict[str, Any]:
    """A parameter with a gradient in one process, one in none, one in both; also where each has an owner."""
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 3, 4)]
    own = [torch.full((2,), 5.0) if workers.rank else None, None, torch.full((4,), 1.0 + workers.rank)]
    everywhere = Gradients(workers, parameters).added(own)
    owned = Gradients(workers, parameters, [0, 0, 1]).added(own)
    shown = [[None if g is None else g.tolist() for g in found] for found in (everywhere, owned)]
    return {"ranks": workers.gather(shown)}


def trainings(folder: Path, workers: Workers) -> dict[str, Any]:
    """The same training by both processes, in several ways; largest differences of the parameters."""
    flat = {"descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [30, 30], "neuron": [3, 4],
                           "axis_neuron": 2}, "fitting": {"neuron": [4]}}  # fmt: skip
    base: dict[str, Any] = {
        "model": flat, "precision": "float64", "steps": 6, "batch_size": 2, "log_every": 2, "validate_every": 3,
        "checkpoint_every": 3, "loss": {"virial": [0.02, 1]}, "ema": 0.9, "gradient_max_norm": 1.0,
    }  # fmt: skip
    data: dict[str, Any] = {"train_data": folder / "train", "valid_data": folder / "valid"}
    by_head = {key: {"a": value, "b": folder / "other"} for key, value in data.items()}
    heads = {"heads": {"a": {}, "b": {"fitting": {"neuron": [5]}}}}

    def run(name: str, team: Workers, data: dict[str, Any] = data, **changes: Any) -> dict[str, torch.Tensor]:
        result = train(TrainConfig(**base | changes), folder / name, type_map=("Cu", "Au"), workers=team, **data)
        return dict(load_any(result.last).state_dict())

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max(float((a[name] - b[name]).abs().max()) for name in a)

    plain = run("plain", workers)
    muon = run("muon", workers, optimizer={"type": "AdaMuon"})
    several = run("heads", workers, by_head, **heads)
    found = {
        "accumulate": apart(run("accumulate", workers, batch_size=1, accumulate=2), plain),
        **{f"zero {k}": apart(run(f"zero{k}", workers, zero=k, **({"ema": None} if k == 3 else {})),
                              run("no_ema", workers, ema=None) if k == 3 else plain) for k in (1, 2, 3)},
        "zero 2, muon": apart(run("zero_muon", workers, zero=2, optimizer={"type": "AdaMuon"}), muon),
        "zero 2, heads": apart(run("zero_heads", workers, by_head, zero=2, **heads), several),
    }  # fmt: skip
    run("part", workers, zero=2, steps=3)
    run("part_plain", workers, steps=3)
    found["zero changed"] = apart(run("part", workers, zero=1), run("part_plain", workers))
    try:
        run("diverged", workers, learning_rate={"start": 1e300, "stop": 1e300}, gradient_max_norm=0, validate_every=6)
    except StageError as error:
        found["diverged"] = workers.gather(str(error))
    tuned = {**data, "init_model": folder / "plain" / "last.safetensors"}
    low_rank = {"recipe": "lora", "lora": {"rank": 1}}
    low = run("low", workers, tuned, **low_rank)
    if workers.first:
        found["one process"] = apart(run("one", ALONE, batch_size=4), plain)
        found["low rank"] = apart(run("one_low", ALONE, tuned, batch_size=4, **low_rank), low)
    workers.wait()
    found["digests"] = workers.gather(state_digest(load_any(folder / "plain" / "last.safetensors")))
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    rank = -1
    try:
        with joined("torchrun", "cpu") as workers:
            rank = workers.rank
            for name in LOSSES:
                found[name] = compared(config_of(name), workers)
            for name in ("energies", "weighted", "property rmse", "property smooth_mae"):
                found[f"{name}, accumulated"] = compared(config_of(name), workers, parts=2)
            found["clipped"] = compared(config_of("energies", gradient_max_norm=1e-3), workers)
            everything = {"type": "LKF", "atoms_per_update": 99, "force_updates": 1}
            loss = {"energy": 1, "forces": 1}
            found["filter"] = compared(
                config_of("energies", gradient_max_norm=5.0, optimizer=everything, loss=loss), workers
            )
            found["two heads"] = two_heads(workers)
            found["unused"] = unused(workers)
            found["trainings"] = trainings(folder, workers)
            if workers.rank == 1:
                raise DataError("frame 7 is damaged")
            workers.sum([0.0])
    except DataError as error:
        found["raised"] = [rank, type(error).__name__, str(error), error.said, error.exit_code]
    if rank == 0:
        (folder / "cases.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
