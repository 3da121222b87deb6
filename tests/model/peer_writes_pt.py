"""Make checkpoints as DeePMD-kit's trainer writes them, from serialised models; run by its own Python.

    python peer_writes_pt.py FOLDER [NAME ...]

For every ``NAME.dp`` in FOLDER, ``NAME.json`` holds the section ``model`` of its input; ``NAME.pt`` is made of them, or
``NAME.error.txt`` says why not. Models that are named after the folder are frozen as well, to ``NAME.pth``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepmd.dpmodel.utils.serialization import load_dp_model
from deepmd.pt.model.model.model import BaseModel
from deepmd.pt.model.model.spin_model import SpinEnergyModel
from deepmd.utils.argcheck import normalize

AROUND = {
    "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-8},
    "training": {"training_data": {"systems": ["data"]}, "numb_steps": 1},
}
"""What an input needs beside its model."""


def normalized(params: dict[str, Any]) -> dict[str, Any]:
    """Section ``model`` with the peer's defaults, as its trainer keeps it."""
    return normalize({"model": params, **AROUND})["model"]


def write(path: Path, freeze: bool) -> None:
    """Write the checkpoint of one model, and its frozen form."""
    tree = load_dp_model(str(path))["model"]
    if tree["type"] == "linear":  # its own files say "linear", its PyTorch reader knows the input's name only
        tree["type"] = "linear_ener"
    module = (SpinEnergyModel if tree["type"] == "spin_ener" else BaseModel).deserialize(tree)
    params = normalized(json.loads(path.with_suffix(".json").read_text()))
    state = {f"model.Default.{name}": tensor for name, tensor in module.state_dict().items()}
    extra = {"model_params": params, "train_infos": {"lr": 1e-3, "step": 1}}
    torch.save({"model": {"_extra_state": extra, **state}, "optimizer": {}}, path.with_suffix(".pt"))
    if freeze:
        module.model_def_script = json.dumps(params)
        torch.jit.save(torch.jit.script(module), path.with_suffix(".pth"))


if __name__ == "__main__":
    folder, frozen = Path(sys.argv[1]), sys.argv[2:]
    for path in sorted(folder.glob("*.dp")):
        try:
            write(path, path.stem in frozen)
        except Exception as error:
            path.with_suffix(".error.txt").write_text(f"{type(error).__name__}: {error}")
