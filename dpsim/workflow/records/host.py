"""This machine, as far as it is known without starting anything."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from pathlib import Path
from typing import Any


def host() -> dict[str, Any]:
    """Return what is known of the machine, without starting anything."""
    return {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu_names(),
        "driver": _gpu_driver(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


@cache
def gpu_names() -> list[str]:
    """Return the names of NVIDIA GPUs that this process may use, as the kernel driver knows them."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    return names[: len([part for part in visible.split(",") if part.strip() not in ("", "-1")])]


def _gpu_driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
