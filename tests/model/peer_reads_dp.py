"""Evaluate models with DeePMD-kit itself; run by its own Python, see `test_peer_files`.

    python peer_reads_dp.py FOLDER

For every ``NAME.dp`` in FOLDER, ``NAME.npz`` holds ``coord (n, 3)``, ``atype (n,)`` and, where they apply, ``cell
(3, 3)``, ``fparam``, ``aparam``, ``spin`` and ``charge_spin`` of one structure; ``NAME.out.npz`` gets what DeePMD-kit
predicts, by its own names, or ``NAME.error.txt`` why it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from deepmd.dpmodel.utils.serialization import load_dp_model
from deepmd.pt.model.model.model import BaseModel
from deepmd.pt.model.model.spin_model import SpinEnergyModel


def evaluate(model: Path, frame: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the peer's PyTorch model says of one structure."""
    tree = load_dp_model(str(model))["model"]
    if tree["type"] == "linear":  # its own files say "linear", its PyTorch reader knows the input's name only
        tree["type"] = "linear_ener"
    module = (SpinEnergyModel if tree["type"] == "spin_ener" else BaseModel).deserialize(tree)
    given = {
        key: torch.from_numpy(frame[key])[None] for key in ("fparam", "aparam", "spin", "charge_spin") if key in frame
    }
    cell = torch.from_numpy(frame["cell"]).reshape(1, 9) if "cell" in frame else None
    coord = torch.from_numpy(frame["coord"])[None].requires_grad_(True)
    results = module(coord, torch.from_numpy(frame["atype"].astype(np.int64))[None], box=cell, **given)
    return {key: value.detach().numpy()[0] for key, value in results.items() if value is not None}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.dp")):
        try:
            np.savez(path.with_suffix(".out.npz"), **evaluate(path, dict(np.load(path.with_suffix(".npz")))))
        except Exception as error:
            path.with_suffix(".error.txt").write_text(f"{type(error).__name__}: {error}")
