"""``dpsim properties``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import table
from dpsim.cli.one_stage import run_one_stage, slug
from dpsim.cli.simulations.statics_options import stage_of, statics_options

CHOICES = ("relax", "eos", "elastic", "vacancy", "surface", "hop", "phonon")


@click.command("properties")
@statics_options
@click.option(
    "--compute", "-c", "names", multiple=True, type=click.Choice(CHOICES), default=("relax", "eos", "elastic"),
    show_default=True, help="What is computed; repeatable. `hop`: the barrier of a vacancy.",
)  # fmt: skip
@click.option(
    "--reference", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Values to compare with."
)
@click.option("--tolerance", help="How far values may be from the reference: 5 %")
def command(
    model: Path,
    structures: Path,
    index: str | None,
    head: str | None,
    names: tuple[str, ...],
    reference: Path | None,
    tolerance: str | None,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Compute properties of the crystals in STRUCTURES (any file of ASE) with MODEL.

    This is a workflow with one stage: running the same command again resumes it.
    """
    compute: list[Any] = [{"neb": {"vacancy_hop": True}} if name == "hop" else name for name in dict.fromkeys(names)]
    stage = stage_of("properties", model, structures, index, head) | {"compute": compute}
    if tolerance is not None and reference is None:
        raise click.UsageError("--tolerance has no effect without --reference")
    if reference is not None:
        stage["reference"] = str(reference.absolute())
    if tolerance is not None:
        stage["tolerance"] = tolerance
    return run_and_show(f"properties-{slug(structures.stem)}", stage, model, run_dir, print_yaml, quiet)


def run_and_show(
    name: str, stage: dict[str, Any], model: Path, run_dir: Path | None, print_yaml: bool, quiet: bool
) -> int:
    """Run the stage and print its values."""
    from dpsim.report.artifacts import read_rows

    code = run_one_stage(name, stage, model, run_dir, seed=0, print_yaml=print_yaml, quiet=quiet)
    if code == 0 and not print_yaml:
        folder = (run_dir or Path("runs") / name) / "stages" / "properties" / "out"
        rows = read_rows(folder / "table.csv") or []
        shown = [[row["structure"], row["property"], f"{float(row['value']):.6g}", row["unit"]] for row in rows]
        click.echo(table(shown, ["structure", "property", "value", "unit"]))
    return code
