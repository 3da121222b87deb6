"""Train on several processes, which this program joins however it was started.

Run 01_label_and_convert.py first, then one of

    mpiexec -n 2 python 09_parallel_training.py
    torchrun --nproc-per-node 2 09_parallel_training.py
    python 09_parallel_training.py

The last trains in a single process. All write into one folder: what one has finished, the others leave as it is.
"""

from pathlib import Path

from dpsim.train.config import TrainConfig
from dpsim.train.parallel.launcher import joined
from dpsim.train.trainer import train

OUTPUT = Path(__file__).parent / "output"
STEPS = 60


def main() -> None:
    if not (OUTPUT / "data").is_dir():
        raise SystemExit("there is no data set yet: run 01_label_and_convert.py first")

    with joined() as workers:
        config = TrainConfig.model_validate(
            {
                "model": {"preset": "dpa3-tiny", "descriptor": {"repflow": {"nlayers": 1}}},
                # Each process makes a batch of this size for every step, and frames are then exchanged, so that all
                # have nearly the same number of edges. The step is that of one batch with all frames.
                "batch_size": 4,
                "learning_rate": {"type": "cosine", "start": 5e-3, "stop": 1e-4, "scale_by_worker": "sqrt"},
                "optimizer": {"type": "AdamW"},
                "zero": 1 if workers.number > 1 else 0,  # each process keeps a part of the optimizer's state
                "steps": STEPS,
                "validate_every": 20,
                "seed": 1,
            }
        )
        result = train(
            config,
            OUTPUT / "parallel",
            train_data=[OUTPUT / "data/train"],
            valid_data=[OUTPUT / "data/valid"],
            workers=workers,
        )
        seconds = workers.gather(result.metrics["seconds_per_step"])  # programs may use the same exchanges
        if workers.first:
            best, ranks = result.metrics["best"], result.metrics["ranks"]
            print(f"{ranks} processes, {4 * ranks} frames a step, {1000 * max(seconds):.0f} ms")
            print(f"forces {1000 * best['rmse_forces']:.0f} meV/Å (RMSE) at step {best['step']} of {STEPS}")


if __name__ == "__main__":
    main()
