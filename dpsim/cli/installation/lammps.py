"""``dpsim lammps``: build the plugin, and say what there is."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group("lammps")
def lammps() -> None:
    """LAMMPS with pair_style dpsim."""


@lammps.command("build")
@click.option(
    "--lammps-source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Source tree of a LAMMPS you built yourself (default: the LAMMPS of this Python environment).",
)
@click.option(
    "--lmp",
    type=click.Path(path_type=Path),
    help="The executable made of that source tree; its integer sizes and its MPI are then known and checked.",
)
@click.option("--mpicxx", default=None, help="MPI compiler of that LAMMPS (default: mpicxx on the PATH).")
@click.option(
    "--define", "definitions", multiple=True, metavar="NAME", help="A definition of that LAMMPS, such as LAMMPS_BIGBIG."
)
@click.option("--force", is_flag=True, help="Build again although it is built.")
@click.option("--verbose", is_flag=True, help="Show what the compiler says.")
def build(
    lammps_source: Path | None,
    lmp: Path | None,
    mpicxx: str | None,
    definitions: tuple[str, ...],
    force: bool,
    verbose: bool,
) -> None:
    """Compile the LAMMPS plugin and print the folder it is in."""
    if lammps_source is None and (lmp or mpicxx or definitions):
        raise click.UsageError("--lmp, --mpicxx and --define go with --lammps-source")

    def say(line: str) -> None:
        click.echo(line, err=True)

    if lammps_source is not None:
        from dpsim.lammps.builds import build_for_source

        folder = build_for_source(
            lammps_source, lmp=lmp, mpicxx=mpicxx or "mpicxx", definitions=definitions, force=force, verbose=verbose,
            progress=say,
        )  # fmt: skip
        say(f'in your LAMMPS input write, before pair_style: plugin load "{folder / "dpsimplugin.so"}"')
    else:
        from dpsim.lammps.builds import build_for_package

        folder = build_for_package(force=force, verbose=verbose, progress=say)
    click.echo(folder)


@lammps.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--step", is_flag=True, help="Also take a two-atom step in LAMMPS (the first time this takes a minute).")
def info(as_json: bool, step: bool) -> None:
    """Print the chain Python, torch, compiler, LAMMPS, MPI, plugin, and what mends what is wrong."""
    from dpsim.errors import SetupError
    from dpsim.lammps.doctor import diagnose

    checks = diagnose(step=step)
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks], indent=1))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{'ok ' if check.ok else 'BAD'}  {check.name:<{width}}  {check.found}")
            if check.fix:
                click.echo(f"     {'':<{width}}  {'note' if check.ok else 'mend'}: {check.fix}")
    broken = [check.name for check in checks if not check.ok]
    if broken:
        raise SetupError(f"not in order: {', '.join(broken)}; see the lines above")
