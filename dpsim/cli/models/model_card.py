"""``dpsim model card``."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import click

from dpsim.cli.common import ModelPath, print_json


@click.command("card")
@click.argument("file", type=ModelPath(exists=False))
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--format", "form", type=click.Choice(["markdown", "json", "matbench"]), default="markdown",
              show_default=True, help="A page, all facts, or the YAML for Matbench Discovery.")  # fmt: skip
def command(file: Path, head: str | None, form: Literal["markdown", "json", "matbench"]) -> None:
    """Print the card of the model FILE: what it is, its checks, how it was trained, what to cite.

    FILE is as in 'dpsim model show'. Checks are those of 'dpsim freeze', in the card beside a frozen model.
    """
    from dpsim.calculators.model_card import TO_FILL, as_markdown, as_matbench, model_card

    card = model_card(file, head)
    if form == "json":
        print_json(card)
    elif form == "markdown":
        click.echo(as_markdown(card), nl=False)
    else:
        from dpsim.workflow.planning.key import soft_keys
        from dpsim.workflow.reference.describe import to_yaml

        packages = soft_keys(("dpsim", "torch", "ase", "numpy", "vesin"))
        click.echo(to_yaml(as_matbench(card, packages, platform.python_version())), nl=False)
        click.echo(f"to be filled in by hand: {', '.join(TO_FILL)}, hyperparams.evaluation", err=True)
