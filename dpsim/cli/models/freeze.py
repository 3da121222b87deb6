"""``dpsim freeze``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.common import ModelPath, json_option, print_json, shown


@click.command("freeze")
@click.argument("model", type=ModelPath())
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File, *.pt2")
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Type of numbers  [default: the model's]")
@click.option("--no-checks", is_flag=True, help="Skip the comparison of PyTorch, frozen model, ASE and LAMMPS.")
@click.option("--print-yaml", is_flag=True, help="Print a workflow with this stage instead of freezing.")
@json_option
def command(
    model: Path,
    output: Path,
    head: str | None,
    device: str,
    dtype: str | None,
    no_checks: bool,
    print_yaml: bool,
    as_json: bool,
) -> None:
    """Compile MODEL for LAMMPS and ASE, and check that the result says the same through every door."""
    if print_yaml:
        from dpsim.cli.one_stage import print_one_stage

        options = {"head": head, "device": device, "precision": dtype, "checks": False if no_checks else None}
        print_one_stage({"uses": "freeze", "from": {"path": str(model)}} | options, model)
        return
    from dpsim.calculators.freeze import freeze
    from dpsim.workflow.driver.progress import ProgressLine

    with ProgressLine() as progress:
        card = freeze(model, output, head=head, device=device, dtype=dtype, checks=not no_checks, progress=progress)
    if as_json:
        print_json(card)
        return
    click.echo(f"wrote {shown(output)}")
    for name, check in card["checks"].items():
        click.echo(f"  {name}: {check['value']:.2g} {check['unit']} (tolerance {check['tolerance']:.0e})")
