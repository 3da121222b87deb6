"""``dpsim compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsim.cli.common import json_option, print_json, shown
from dpsim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dpsim.model.compress import Compressed


@click.command("compress")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="*.safetensors")
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--min-distance", type=float, metavar="Å", help="Smallest distance between atoms that will be met.")
@click.option(
    "--data", metavar="SYSTEM", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="Data whose smallest distance is taken instead; repeatable.",
)  # fmt: skip
@click.option("--step", type=float, default=0.01, show_default=True, help="Width of the intervals of the tables.")
@click.option(
    "--extrapolate", type=float, default=5.0, show_default=True, help="How many times as far the tables go, coarser."
)
@json_option
def command(
    model: Path, output: Path, head: str | None, min_distance: float | None, data: tuple[Path, ...], step: float,
    extrapolate: float, as_json: bool,
) -> None:  # fmt: skip
    """Put tables in the place of the embedding networks of MODEL, and check that the result says the same.

    The new model is evaluated and frozen as any other, faster; it can no longer be trained.
    """
    if (min_distance is None) == (not data):
        raise ConfigError("give either --min-distance or --data: tables are finest down to the smallest distance")
    if output.suffix != ".safetensors":
        raise ConfigError(f"{output}: a compressed model ends in .safetensors, found {output.suffix or 'no suffix'!r}")
    from dpsim.model.checkpoint import save_model
    from dpsim.model.compress import compress
    from dpsim.train.state import read_model

    distance = _smallest_distance(data) if min_distance is None else min_distance
    found = compress(read_model(model, head), distance, step=step, extrapolate=extrapolate)
    facts = _facts(found, distance)
    save_model(found.model, output, {"compressed_from": model.name, **facts})
    if as_json:
        print_json({"output": str(output), **facts})
        return
    click.echo(f"wrote {shown(output)}: tables down to {distance:.3g} Å")
    for path, grid in found.tables.items():
        click.echo(f"  {path}: {grid.n_intervals} intervals in [{grid.start:g}, {grid.end:g}]")
    for path, reason in found.left.items():
        click.echo(f"  {path}: left as it is, {reason}")
    errors = f"outputs {found.output_error:.1e}, forces {found.force_error:.1e}"
    click.echo(f"  largest difference on random structures, relative to the largest: {errors}")


def _facts(found: Compressed, distance: float) -> dict[str, object]:
    return {
        "min_distance": distance,
        "intervals": {path: grid.n_intervals for path, grid in found.tables.items()},
        "left": found.left,
        "output_error": found.output_error,
        "force_error": found.force_error,
    }


def _smallest_distance(data: tuple[Path, ...]) -> float:
    from dpsim.data.dataset import open_dataset
    from dpsim.data.distances import closest_pair

    systems = open_dataset(data).systems
    distance = min(closest_pair(system.frame(i))[0] for system in systems for i in range(system.n_frames))
    if distance == float("inf"):
        raise DataError(f"{', '.join(map(str, data))}: no two atoms are near each other: give --min-distance instead")
    return distance
