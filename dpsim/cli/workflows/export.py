"""``dpsim export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dpsim.cli.common import find_run, load_plan, run_dir_of, run_dir_option, shown

if TYPE_CHECKING:
    from dpsim.workflow.planning.plan import Plan

_Form = Literal["ro-crate", "slurm", "snakemake"]


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--ro-crate", "form", flag_value="ro-crate", help="Write ro-crate-metadata.json into the run directory.")
@click.option("--slurm", "form", flag_value="slurm", help="Write a script for sbatch that runs the workflow RUN.")
@click.option("--snakemake", "form", flag_value="snakemake", help="Write a Snakefile that runs the workflow RUN.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="File to write  [default: NAME.sbatch or Snakefile]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--walltime", help="Of the Slurm job, as '12 h'  [default: what the stages ask for, or a day]")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Cores of the Slurm job  [default: the widest stage]")
@click.option("--profile", help="Use a profile of the file.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed instead of the one in the file.")
@run_dir_option
def command(
    run: Path | None,
    form: _Form | None,
    output: Path | None,
    force: bool,
    walltime: str | None,
    jobs: int | None,
    profile: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
) -> None:
    """Write RUN down for other programs.

    With --ro-crate, RUN is a run directory or a workflow file (by default the latest run), and its run directory
    becomes an RO-Crate 1.1, as archives such as Zenodo or WorkflowHub read it.

    With --slurm, RUN is a workflow file: the script runs all of it in one allocation of one node that is as large as
    the widest stage asks for. When the time is nearly over, the stages save and the job is queued again, until all is
    done.

    With --snakemake, RUN is a workflow file: each stage becomes a rule (a loop is one, as it is planned as it goes).
    """
    given = {"--output": output, "--force": force, "--walltime": walltime, "-j": jobs, "--profile": profile,
             "--set": overrides, "--seed": seed is not None, "--run-dir": run_dir}  # fmt: skip
    if form is None:
        raise click.UsageError("say what to write: --ro-crate, --slurm or --snakemake")
    wrong = {"ro-crate": list(given), "slurm": [], "snakemake": ["--walltime", "-j"]}[form]
    if useless := [name for name in wrong if given[name]]:
        raise click.UsageError(f"{useless[0]} has no meaning with --{form}")
    if form == "ro-crate":
        _write_crate(run)
        return
    if run is None:
        raise click.UsageError(f"name the workflow file: dpsim export workflow.yaml --{form}")
    plan = load_plan(run, profile, overrides, seed)
    if form == "slurm":
        _write(output or Path(f"{plan.workflow.name}.sbatch"), _slurm(plan, jobs, walltime, run_dir), force)
    else:
        from dpsim.workflow.exports.snakefile import snakefile

        text = snakefile(plan, Path.cwd(), run_dir_of(plan, run_dir), named=run_dir is not None)
        _write(output or Path("Snakefile"), text, force)


def _slurm(plan: Plan, jobs: int | None, walltime: str | None, run_dir: Path | None) -> str:
    from dpsim.units import parse_quantity
    from dpsim.workflow.exports.batch_script import batch_script
    from dpsim.workflow.exports.exported import needs_of

    seconds = parse_quantity(walltime, "walltime") if walltime is not None else None
    if seconds is not None and seconds <= 0:
        raise click.UsageError(f"--walltime {walltime}: it must be longer than nothing")
    return batch_script(plan, needs_of(plan, cpus=jobs, walltime=seconds), Path.cwd(), run_dir)


def _write(target: Path, text: str, force: bool) -> None:
    from dpsim.errors import ConfigError
    from dpsim.workflow.records.files import write_atomic

    if target.exists() and not force:
        raise ConfigError(f"{target} exists already; name another file with --output, or replace it with --force")
    write_atomic(target, text)
    click.echo(f"wrote {shown(target)}")


def _write_crate(run: Path | None) -> None:
    from dpsim.workflow.records.crate import METADATA, crate
    from dpsim.workflow.records.files import write_atomic

    store = find_run(run)
    target = store.run_dir / METADATA
    write_atomic(target, json.dumps(crate(store), indent=1) + "\n")
    click.echo(f"wrote {shown(target)}")
