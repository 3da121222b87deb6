"""``dpsim logs``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dpsim.cli.common import find_run, find_stage
from dpsim.errors import ConfigError


@click.command("logs")
@click.argument("stage")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last lines.")
def command(stage: str, run: Path | None, follow: bool, lines: int | None) -> None:
    """Print what STAGE of RUN wrote (a run directory or a workflow file, by default the latest run)."""
    from dpsim.cli.workflows.status import collect

    store = find_run(run)
    name = find_stage(store, stage)
    path = store.run_dir / "stages" / name / "log.txt"
    if not path.is_file():
        raise ConfigError(f"stage {name!r} has not run yet, so it has no log")
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in text if lines is None else text[len(text) - min(lines, len(text)) :]:
        click.echo(line)
    if not follow:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            while block := file.read():
                click.echo(block, nl=False)
            if collect(store)["running"] is False:
                return
            time.sleep(0.5)
