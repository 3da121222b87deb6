"""Five steps of the Kalman filter against those of DeePMD-kit 3.2.0.

The reference began with the golden checkpoint ``ckpt_se_a.ckpt-5.pt`` (``--init-model``) on one frame of water, and its
random choice of atoms was replaced by the first six of the frame, as it is here. With a block size of 656 both cut the
parameters into the same blocks; all parameters then agreed to 1e-14. What is compared are sums of some of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dpsim.cli.main import run as cli
from dpsim.model.checkpoint import load_model
from dpsim.train import step

OPTIMIZER = {
    "type": "LKF", "kf_blocksize": 656, "kf_start_pref_e": 1.0, "kf_limit_pref_e": 2.0, "kf_start_pref_f": 1.0,
    "kf_limit_pref_f": 0.5,
}  # fmt: skip
EXPECTED = {
    "descriptor.networks.0.layers.1.linear.weight": 2.024960365353,
    "descriptor.networks.1.layers.0.linear.bias": -0.572371703028,
    "fitting.networks.0.hidden.0.linear.weight": 0.717677293511,
    "fitting.networks.1.hidden.1.idt": 1.769275223529,
    "fitting.networks.1.output.bias": 0.989860128363,
}


def test_five_steps_of_the_reference(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree: dict[str, Any] = json.loads((golden / "ckpt_se_a.input.json").read_text())
    tree["optimizer"] = OPTIMIZER
    tree["training"] = {"training_data": tree["training"]["training_data"], "numb_steps": 5, "disp_freq": 1}
    (tmp_path / "input.json").write_text(json.dumps(tree))
    shutil.copytree(golden / "train_data", tmp_path / "train_data")
    monkeypatch.setattr(step, "chosen_atoms", lambda *arguments: torch.arange(6))
    start = ["--init-model", str(golden / "ckpt_se_a.ckpt-5.pt"), "--device", "cpu"]
    assert cli(["train", str(tmp_path / "input.json"), "-o", str(tmp_path / "t"), *start]) == 0
    found = dict(load_model(tmp_path / "t" / "last.safetensors").named_parameters())
    assert {name: found[name].sum().item() for name in EXPECTED} == pytest.approx(EXPECTED, abs=2e-11)
