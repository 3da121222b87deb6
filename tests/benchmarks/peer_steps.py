"""Run by the Python of DeePMD-kit: the first state of a training, the frames of its batches, and maybe its losses.

    PEER_PYTHON tests/benchmarks/peer_steps.py order|train

Trains as ``input.json`` of the current folder says and writes ``first.pt``, ``batches.json`` (system and frames of each
step) and, with ``train``, ``losses.json`` (the loss of each step in full). ``order`` draws the batches without a step.
"""

import json
import sys
from pathlib import Path

from deepmd.main import main
from deepmd.pt.train import training


def plain(value):
    """Numbers of a system or of frames, however the loader wraps them."""
    return [int(one) for one in value] if hasattr(value, "__iter__") else [int(value)]


def watched(run, steps):
    """The loop of the trainer with its batches and losses written down."""

    def wrapped(trainer):
        trainer.save_model(Path("first.pt"), lr=0.0, step=0)
        draw, batches, losses = trainer._next_training_batch, [], []

        def drawn(*arguments):
            batch = draw(*arguments)
            batches.append([plain(batch[2]["sid"])[0], plain(batch[2]["fid"])])
            return batch

        def note(module, arguments, result):
            if result[1].requires_grad:  # else it is no step
                losses.append(result[1].item())

        trainer._next_training_batch = drawn
        if steps:
            trainer.wrapper.register_forward_hook(note)
            run(trainer)
            Path("losses.json").write_text(json.dumps(losses))
        else:
            for _ in range(trainer.num_steps):
                drawn("Default")
        Path("batches.json").write_text(json.dumps(batches))

    return wrapped


if __name__ == "__main__":
    training.Trainer._run = watched(training.Trainer._run, sys.argv[1] == "train")
    sys.argv = ["dp", "--pt", "train", "input.json", "--skip-neighbor-stat"]
    main()
