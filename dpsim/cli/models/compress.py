"""``dpsim compress``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.common import ModelPath, json_option, print_json, shown
from dpsim.errors import ConfigError


@click.command("compress")
@click.argument("model", type=ModelPath())
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
    from dpsim.calculators.compress import compress_file

    found, facts = compress_file(
        model, output, head=head, min_distance=min_distance, data=data, step=step, extrapolate=extrapolate
    )
    if as_json:
        print_json({"output": str(output), **facts})
        return
    click.echo(f"wrote {shown(output)}: tables down to {facts['min_distance']:.3g} Å")
    for path, grid in found.tables.items():
        click.echo(f"  {path}: {grid.n_intervals} intervals in [{grid.start:g}, {grid.end:g}]")
    for path, reason in found.left.items():
        click.echo(f"  {path}: left as it is, {reason}")
    errors = f"outputs {found.output_error:.1e}, forces {found.force_error:.1e}"
    click.echo(f"  largest difference on random structures, relative to the largest: {errors}")
