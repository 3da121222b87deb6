"""kill -9 at any moment, then run again: the same files as without it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsim.model.checkpoint import load_model, state_digest
from dpsim.train.config import TrainConfig
from dpsim.train.records.state import checkpoints
from dpsim.train.trainer import train

KILLS = 3
SCRIPT = """
import sys
from pathlib import Path
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import train
config, output, data = sys.argv[1:]
train(TrainConfig.model_validate_json(config), output, train_data=Path(data, "train"), valid_data=Path(data, "valid"))
"""


def progress_of(folder: Path) -> int:
    """Rows of the curve and checkpoints that there are."""
    curve = folder / "lcurve.csv"
    return len(curve.read_text().splitlines()) if curve.is_file() else 0


@pytest.mark.parametrize(
    ("seed", "changes"),
    [(1, {}), (2, {"ema": 0.9, "batch_size": "auto:12", "accumulate": 2}), (3, {"sampling": "systems", "epochs": 3})],
)
def test_killed_training_goes_on_bit_for_bit(
    seed: int, changes: dict[str, Any], emt: Path, tmp_path: Path, settings: Callable[..., TrainConfig]
) -> None:
    """The first kill may come before anything is imported or written, the others come at random moments."""
    length = {"steps": None} if "epochs" in changes else {"steps": 45}
    rhythm = {"log_every": 1, "validate_every": 5, "checkpoint_every": 3, "keep_checkpoints": 2}
    config = settings(**{"precision": "float32", "batch_size": 1, **length, **rhythm, **changes})
    train(config, tmp_path / "whole", train_data=emt / "train", valid_data=emt / "valid")
    killed, moments = tmp_path / "killed", random.Random(seed)
    command = [sys.executable, "-c", SCRIPT, config.model_dump_json(), str(killed), str(emt)]
    kills = 0
    for _ in range(12):
        rows = moments.randint(0, 6)
        with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
            begin = progress_of(killed)
            while kills < KILLS and process.poll() is None and progress_of(killed) < begin + rows:
                time.sleep(0.005)
            if kills < KILLS and process.poll() is None:
                time.sleep(moments.uniform(0, 0.1 if rows else 2.0))
                process.kill()
                kills += 1
        if process.returncode >= 0:
            break
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert kills == KILLS
    assert checkpoints(killed)[-1][0] == checkpoints(tmp_path / "whole")[-1][0] > 40
    assert (killed / "lcurve.csv").read_bytes() == (tmp_path / "whole" / "lcurve.csv").read_bytes()
    for name in ("best", "last"):
        digests = {state_digest(load_model(folder / f"{name}.safetensors")) for folder in (killed, tmp_path / "whole")}
        assert len(digests) == 1
    assert {path.name for path in killed.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
