"""``dpsim export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dpsim.cli.common import find_run, shown


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--ro-crate", is_flag=True, help="Write ro-crate-metadata.json into the run directory.")
def command(run: Path | None, ro_crate: bool) -> None:
    """Describe RUN (a run directory or a workflow file) for other programs.

    With --ro-crate the run directory becomes an RO-Crate 1.1, as archives such as Zenodo or WorkflowHub read it.
    """
    from dpsim.workflow.crate import METADATA, crate
    from dpsim.workflow.files import write_atomic

    if not ro_crate:
        raise click.UsageError("say what to write: --ro-crate")
    store = find_run(run)
    target = store.run_dir / METADATA
    write_atomic(target, json.dumps(crate(store), indent=1) + "\n")
    click.echo(f"wrote {shown(target)}")
