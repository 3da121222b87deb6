"""Trains with dpsim as an input.json of DeePMD-kit says, and prints a line after each step.

    python tests/benchmarks/train_steps.py INPUT OUTPUT THREADS [auto|true|false]

The same as ``dpsim train INPUT -o OUTPUT``, which reports once a second only. The last argument
says whether the step is compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Train."""
    from dpsim.cli.models.train import Start, read_peer_input

    source, output, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    compiled = {"auto": "auto", "true": True, "false": False}[sys.argv[4] if len(sys.argv) > 4 else "auto"]
    request = read_peer_input(source, (), Start(None, False, None, False))

    from dpsim.train.config import TrainConfig
    from dpsim.train.trainer import train

    def after_step() -> bool:
        print("step done", flush=True)
        return False

    train(
        TrainConfig.model_validate({**request.settings, "compile": compiled}), output,
        train_data=request.data, valid_data=request.valid, type_map=request.type_map,
        stop=after_step, threads=threads, device="cpu",
    )  # fmt: skip


if __name__ == "__main__":
    main()
