"""``dpsim eos``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.one_stage import slug
from dpsim.cli.simulations.properties import run_and_show
from dpsim.cli.simulations.statics_options import given, stage_of, statics_options


@click.command("eos")
@statics_options
@click.option("--volumes", help="How far volumes go to either side  [default: 6 %]")
@click.option("--points", type=click.IntRange(min=5, max=101), help="Number of volumes  [default: 9]")
@click.option(
    "--equation", type=click.Choice(["birchmurnaghan", "murnaghan", "birch", "vinet", "pouriertarantola"]),
    help="Equation that is fitted  [default: birchmurnaghan]",
)  # fmt: skip
def command(
    model: Path,
    structures: Path,
    index: str | None,
    head: str | None,
    volumes: str | None,
    points: int | None,
    equation: str | None,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Fit the equation of state of the crystals in STRUCTURES (any file of ASE) with MODEL.

    This is a workflow with one stage: running the same command again resumes it.
    """
    stage = stage_of("properties", model, structures, index, head)
    stage["compute"] = ["relax", {"eos": given(volumes=volumes, points=points, equation=equation)}]
    return run_and_show(f"eos-{slug(structures.stem)}", stage, model, run_dir, print_yaml, quiet)
