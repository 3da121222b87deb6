"""``dpsim relax``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.one_stage import run_one_stage, slug
from dpsim.cli.simulations.statics_options import given, stage_of, statics_options


@click.command("relax")
@statics_options
@click.option("--fmax", help="Longest force of a relaxed structure  [default: 0.01 eV/angstrom]")
@click.option(
    "--cell", type=click.Choice(["fixed", "volume", "shape", "full"]), default="fixed", show_default=True,
    help="What of the cell moves with the atoms.",
)  # fmt: skip
@click.option("--pressure", help="Outer pressure, for a cell whose volume moves  [default: 0 bar]")
@click.option("--max-steps", type=click.IntRange(min=1), help="Steps at most  [default: 500]")
@click.option("--engine", type=click.Choice(["ase", "lammps"]), default="ase", show_default=True)
@click.option("--optimizer", type=click.Choice(["FIRE", "LBFGS", "BFGS", "CG"]), help="Method of the engine.")
@click.option("--tolerate-failures", help="Share of structures that may stay unconverged  [default: 0 %]")
@click.option("--ranks", type=click.IntRange(min=1), help="MPI ranks, of LAMMPS.")
def command(
    model: Path,
    structures: Path,
    index: str | None,
    head: str | None,
    fmax: str | None,
    cell: str,
    pressure: str | None,
    max_steps: int | None,
    engine: str,
    optimizer: str | None,
    tolerate_failures: str | None,
    ranks: int | None,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Relax the STRUCTURES (any file of ASE) with MODEL.

    This is a workflow with one stage: running the same command again resumes it.
    """
    if ranks is not None and engine != "lammps":
        raise click.UsageError("--ranks has no effect with --engine ase; use --engine lammps")
    stage = stage_of("relax", model, structures, index, head) | {"cell": cell, "engine": engine}
    stage |= given(
        fmax=fmax, pressure=pressure, max_steps=max_steps, optimizer=optimizer, tolerate_failures=tolerate_failures
    )
    if ranks is not None:
        stage["resources"] = {"ranks": ranks}
    name = f"relax-{slug(structures.stem)}"
    return run_one_stage(name, stage, model, run_dir, seed=0, print_yaml=print_yaml, quiet=quiet)
