"""Train a small DPA-3 from Python, then look at its errors on frames that it has not seen.

Run 01_label_and_convert.py first. ``02_train.yaml`` is the same training for the command line.
"""

from pathlib import Path

from dpsim.calculators.errors_on_data import evaluate_dataset
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import train

OUTPUT = Path(__file__).parent / "output"


def main() -> None:
    if not (OUTPUT / "data").is_dir():
        raise SystemExit("there is no data set yet: run 01_label_and_convert.py first")

    # Every key has its unit, its default and its description in `dpsim schema`; a wrong one is an error with its name.
    config = TrainConfig.model_validate(
        {
            "model": {"preset": "dpa3-tiny", "descriptor": {"repflow": {"nlayers": 1}}},
            "loss": {"energy": [0.02, 1], "forces": [1000, 1], "virial": [0.02, 1]},
            "learning_rate": {"type": "cosine", "start": 0.01, "stop": 1e-4, "warmup_steps": 50},
            "batch_size": "auto:32",  # as few frames as have 32 atoms together
            "steps": 900,
            "validate_every": 150,
            "seed": 1,
        }
    )

    def progress(done: int, total: int, message: str, *, steps_per_second: float = 0.0, **numbers: float) -> None:
        error = numbers.get("rmse_forces_valid")
        print(f"step {done:4}/{total}  {steps_per_second:4.1f} steps/s" + (f"  {error:.3f} eV/Å" if error else ""))

    # A folder that holds a finished training is left as it is; a training that was stopped goes on.
    result = train(
        config,
        OUTPUT / "train",
        train_data=[OUTPUT / "data/train"],
        valid_data=[OUTPUT / "data/valid"],
        progress=progress,
    )
    print(f"best model: {result.best}")
    print(f"learning curve: {result.curve}")

    errors = evaluate_dataset(result.best, [OUTPUT / "data/valid"])["overall"]
    print(f"energy {1000 * errors['energy_rmse']:.1f} meV/atom, forces {1000 * errors['forces_rmse']:.0f} meV/Å (RMSE)")


if __name__ == "__main__":
    main()
