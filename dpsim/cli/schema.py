"""``dpsim schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("schema")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
def command(out: Path | None) -> None:
    """Print the JSON Schema of workflow files.

    With the line '# yaml-language-server: $schema=FILE' at the top of a workflow, editors complete and check it.
    """
    from dpsim.workflow.files import write_atomic
    from dpsim.workflow.json_schema import json_schema

    text = json.dumps(json_schema(), indent=1) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    click.echo(f"wrote {out}", err=True)
