"""Whether GPUs can be used: driver, torch, and a computation on each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dpsim.lammps.doctor import Check

_DRIVER = Path("/proc/driver/nvidia/version")


def diagnose_gpu() -> list[Check]:
    """Check every link, in the order in which they depend on each other; never raises."""
    return list(_checks())


def _checks() -> Iterator[Check]:
    try:
        driver = _DRIVER.read_text(errors="replace").splitlines()[0].removeprefix("NVRM version:").strip()
        yield Check("NVIDIA driver", True, driver, "")
    except (OSError, IndexError):
        yield Check("NVIDIA driver", False, "none is loaded", "install it from your distribution; CPUs need none")
    import torch

    built = torch.version.cuda
    cure = "install torch for CUDA as its home page says; this one knows CPUs only"
    yield Check("torch", built is not None, f"{torch.__version__} cuda={built}", "" if built else cure)
    count = torch.cuda.device_count() if built else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    remark = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
    yield Check("GPUs", count > 0, f"{count} that torch can use", remark or ("" if count else "see the checks above"))
    for number in range(count):
        yield _computes(number)


def _computes(number: int) -> Check:
    """Multiply small matrices on a GPU and on the CPU."""
    import torch

    name = f"GPU {number}"
    try:
        about = torch.cuda.get_device_properties(number)
        values = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).reshape(64, 64)
        found = (values.to(f"cuda:{number}") @ values.to(f"cuda:{number}")).cpu()
        right = bool(torch.allclose(found, values @ values, rtol=1e-12, atol=1e-12))
    except RuntimeError as error:
        return Check(name, False, str(error).splitlines()[0], "see whether another program holds it: nvidia-smi")
    text = f"{about.name}, {about.total_memory / 1e9:.0f} GB, capability {about.major}.{about.minor}"
    return Check(name, right, text if right else f"{text}, but it multiplies wrongly", "" if right else "nvidia-smi -q")
