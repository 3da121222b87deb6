"""``dpsim doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import json_option, print_json


@click.command("doctor")
@click.option(
    "--lmp", type=click.Path(path_type=Path), help="A LAMMPS executable you built (default: that of this environment)."
)
@click.option("--mpirun", type=click.Path(path_type=Path), help="What starts it on ranks (default: from the PATH).")
@click.option("--model", type=click.Path(path_type=Path), help="A frozen model, to be checked and used for the step.")
@click.option("--no-step", is_flag=True, help="Leave out the two-atom LAMMPS step, which may compile for a minute.")
@click.option("--lammps", "parts", flag_value="lammps", multiple=True, help="Only the checks of LAMMPS and the plugin.")
@click.option("--mpi", "parts", flag_value="mpi", multiple=True, help="Only the checks of MPI.")
@click.option("--gpu", is_flag=True, help="Check driver, torch and GPUs instead.")
@click.option("--slurm", is_flag=True, help="Check Slurm and the packages for clusters instead.")
@json_option
def command(
    lmp: Path | None,
    mpirun: Path | None,
    model: Path | None,
    no_step: bool,
    parts: tuple[str, ...],
    gpu: bool,
    slurm: bool,
    as_json: bool,
) -> int:
    """Check the chain from Python over torch, compiler, LAMMPS and MPI to the plugin, and say what mends it."""
    from dpsim.errors import SetupError
    from dpsim.lammps import diagnose

    if mpirun is not None and lmp is None:
        raise click.UsageError("--mpirun goes with --lmp")
    checks: list[Any]
    if slurm or gpu:
        if lmp is not None or model is not None or parts or (slurm and gpu):
            word = "--slurm" if slurm else "--gpu"
            raise click.UsageError(f"{word} is a check of its own: leave out the other options")
        from dpsim.lammps.gpu_checks import diagnose_gpu
        from dpsim.workflow.executors.checks import diagnose_slurm

        checks = diagnose_slurm() if slurm else diagnose_gpu()
    else:
        checks = diagnose(lmp=lmp, mpirun=mpirun, model=model, step=not no_step)
        checks = [check for check in checks if not parts or _part_of(check.name) in parts]
    failed = [check for check in checks if not check.ok]
    if as_json:
        print_json({"ok": not failed, "checks": [check._asdict() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = click.style("pass", fg="green") if check.ok else click.style("FAIL", fg="red", bold=True)
            click.echo(f"{mark}  {check.name:<{width}}  {check.found}")
            if check.fix:
                click.echo(f"      {'':<{width}}  {'' if check.ok else 'mend it with: '}{check.fix}")
        click.echo(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    return SetupError.exit_code if failed else 0


def _part_of(name: str) -> str:
    """Return what a check is about."""
    if name in ("Python", "torch", "C++ compiler", "cmake"):
        return "base"
    return "mpi" if "mpi" in name.lower() or "ranks" in name else "lammps"
