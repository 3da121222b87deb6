"""The rows of the learning curve for TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from dpsim.errors import SetupError

FOLDER = "tensorboard"


def check_board() -> None:
    """Refuse to begin without the package.

    Raises
    ------
    SetupError
        Naming it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise SetupError(
            "tensorboard: the package 'tensorboard' is not installed: run `pip install 'dpsim[tensorboard]'`, or leave "
            "the option out (lcurve.csv has the same numbers)"
        )


class Board:
    """Writes rows as scalars; those of steps that a restart makes anew replace the old ones.

    Parameters
    ----------
    folder
        Of the training.
    step
        Step at which this process begins.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Write one row of the curve."""
        step = row["step"]
        for name, value in row.items():
            if value is not None and name != "step":
                self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        self._writer.flush()  # type: ignore[no-untyped-call]

    def sync(self) -> None:
        """See `dpsim.train.records.curve.Curve.sync`; rows that are lost here are in the curve."""

    def close(self) -> None:
        """Close the files."""
        self._writer.close()  # type: ignore[no-untyped-call]
