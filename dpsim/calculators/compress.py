"""Compressing a model file: tables in the place of embedding networks, as fine as the data ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsim.errors import DataError

if TYPE_CHECKING:
    from dpsim.model.compress import Compressed


def compress_file(
    model: Path,
    output: Path,
    *,
    head: str | None = None,
    min_distance: float | None = None,
    data: Sequence[Path] = (),
    step: float = 0.01,
    extrapolate: float = 5.0,
) -> tuple[Compressed, dict[str, Any]]:
    """Compress a model and write it.

    Parameters
    ----------
    model
        A trained model.
    output
        The file to write, ``*.safetensors``.
    head
        Of a model with several.
    min_distance
        Smallest distance of two atoms that will be met, Å; else that in `data`.
    step
        Width of the intervals of the tables.
    extrapolate
        How many times as far the tables go, coarser.

    Returns
    -------
    Compressed, dict
        The model with its tables, and what is known of them, as it stands in the header of the file.

    Raises
    ------
    DataError
        If no two atoms of the data are near each other.
    ModelError
        If nothing can be compressed, or the result says something else.
    """
    from dpsim.model.checkpoint import save_model
    from dpsim.model.compress import compress
    from dpsim.train.records.state import read_model

    distance = smallest_distance(data) if min_distance is None else min_distance
    found = compress(read_model(model, head), distance, step=step, extrapolate=extrapolate)
    facts: dict[str, Any] = {
        "min_distance": distance,
        "intervals": {path: grid.n_intervals for path, grid in found.tables.items()},
        "left": found.left,
        "output_error": found.output_error,
        "force_error": found.force_error,
    }
    save_model(found.model, output, {"compressed_from": model.name, **facts})
    return found, facts


def smallest_distance(data: Sequence[Path]) -> float:
    """Return the smallest distance of two atoms in data sets, Å.

    Raises
    ------
    DataError
        If no two atoms are near each other.
    """
    from dpsim.data.dataset import open_dataset
    from dpsim.data.distances import closest_pair

    systems = open_dataset(list(data)).systems
    distance = min(closest_pair(system.frame(i))[0] for system in systems for i in range(system.n_frames))
    if distance == float("inf"):
        raise DataError(f"{', '.join(map(str, data))}: no two atoms are near each other: give the distance instead")
    return float(distance)
