"""``dpsim phonon``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.one_stage import run_one_stage, slug
from dpsim.cli.simulations.statics_options import given, stage_of, statics_options


@click.command("phonon")
@statics_options
@click.option("--supercell", nargs=3, type=click.IntRange(min=1), help="Repetitions along the cell vectors.")
@click.option("--min-length", help="Least height of the supercell  [default: 10 angstrom]")
@click.option("--displacement", help="How far atoms are displaced  [default: 0.01 angstrom]")
@click.option("--mesh", type=float, help="Density of the mesh, a length in Å  [default: 100]")
@click.option("--tmax", help="Highest temperature of the thermal properties  [default: 1000 K]")
@click.option("--no-relax", is_flag=True, help="Take the structure as it is.")
@click.option("--fail-on-imaginary", is_flag=True, help="Fail if there are imaginary modes.")
def command(
    model: Path,
    structures: Path,
    index: str | None,
    head: str | None,
    supercell: tuple[int, int, int] | None,
    min_length: str | None,
    displacement: str | None,
    mesh: float | None,
    tmax: str | None,
    no_relax: bool,
    fail_on_imaginary: bool,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Compute the phonons of the crystal in STRUCTURES (any file of ASE) with MODEL.

    This is a workflow with one stage: running the same command again resumes it.
    """
    stage = stage_of("phonon", model, structures, index or "-1", head)
    stage |= given(
        supercell=list(supercell) if supercell else None, min_length=min_length, displacement=displacement, mesh=mesh
    )
    if tmax is not None:
        stage["thermal"] = {"tmax": tmax}
    if no_relax:
        stage["relax"] = False
    if fail_on_imaginary:
        stage["imaginary"] = {"fail": True}
    name = f"phonon-{slug(structures.stem)}"
    return run_one_stage(name, stage, model, run_dir, seed=0, print_yaml=print_yaml, quiet=quiet)
