"""What a training needs before its first step, and that its data may be larger than memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from dpsim.data import Frame, write_mixed
from dpsim.train.config import TrainConfig

TYPE_MAP = ("Cu", "Au")
START = 4.0
"""CPU time of a whole training of one step in that of ``import torch``; some 2.5 where it was written."""
GRID = 125_000
"""Values of a label that makes a frame one megabyte."""

LIMITED = """
import resource, sys
from pathlib import Path
from dpsim.train.config import TrainConfig
from dpsim.train.trainer import train

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

config, folder, room = TrainConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
train(config, folder / "first", train_data=folder / "few", threads=1)
resource.setrlimit(resource.RLIMIT_DATA, (held() + room, resource.RLIM_INFINITY))
train(config, folder / "second", train_data=folder / "many", threads=1, cache_bytes=1 << 20)
print(held())
"""


def test_the_first_step_comes_soon(shared: Path, tmp_path: Path) -> None:
    """Imports, reading 320 frames of water, their statistics, a step and its checkpoint; quicker of two attempts."""
    water = [str(shared / f"data/water/data_{k}") for k in range(3)]
    settings = {"type_map": ["O", "H"], "data": water, "model": "dpa3-tiny", "steps": 1, "batch_size": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    ratios = []
    for attempt in range(2):
        command = ["-m", "dpsim.cli.main", "train", "train.yaml", "--device", "cpu", "-o", f"t{attempt}"]
        ratios.append(processor_time(command, tmp_path) / processor_time(["-c", "import torch"], tmp_path))
        if ratios[-1] < START:
            break
    assert min(ratios) < START


def processor_time(arguments: list[str], folder: Path) -> float:
    """CPU s of a Python process with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory of a process is read from /proc")
def test_data_may_be_larger_than_memory(
    emt_frames: Callable[..., list[Frame]], tmp_path: Path, settings: Callable[..., TrainConfig]
) -> None:
    """400 MB of frames train where 150 MB may be taken beyond what a training of a few frames holds."""
    small = [frame for frame in emt_frames(8) if frame.n_atoms == 4]
    write_mixed(small, tmp_path / "few", TYPE_MAP)
    frames = [small[k % len(small)] for k in range(400)]
    (system,) = write_mixed(frames, tmp_path / "many", TYPE_MAP)
    label = np.lib.format.open_memmap(
        system / "set.000/dos.npy", mode="w+", dtype=np.float64, shape=(len(frames), GRID)
    )  # zeros that take no room on disk
    del label
    size = (system / "set.000/dos.npy").stat().st_size
    assert size > 400_000_000
    config = settings(steps=6, checkpoint_every=6, validate_every=6)
    command = [sys.executable, "-c", LIMITED, config.model_dump_json(), str(tmp_path), str(150 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "second/last.safetensors").is_file()
