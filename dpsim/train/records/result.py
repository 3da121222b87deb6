"""What a training leaves behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsim.train.batches.frames import FrameSet, Scan


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind."""

    best: Path
    """Model with the lowest validation metric (training metric without validation data)."""
    last: Path
    """Model after the last step."""
    checkpoint: Path
    """State after the last step."""
    curve: Path
    """Learning curve."""
    metrics_path: Path
    metrics: dict[str, Any]
    """Content of ``metrics.json``."""


def data_facts(frames: FrameSet, found: Scan, valid: FrameSet | None, found_valid: Scan | None) -> dict[str, Any]:
    """Part of ``metrics.json`` that tells of the data.

    Parameters
    ----------
    frames, found
        Training frames, and what is in them.
    valid, found_valid
        The same of the validation frames.
    """
    return {
        "frames": {"train": len(frames), "valid": len(valid) if valid else 0},
        "left_out": {"train": frames.dropped, "valid": valid.dropped if valid else {}},
        "labels": {"train": found.labels, "valid": found_valid.labels if found_valid else {}},
        "forces_rms": None if math.isnan(found.forces_std) else found.forces_std,
    }
