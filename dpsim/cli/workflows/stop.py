"""``dpsim stop``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from dpsim.cli.common import find_run
from dpsim.errors import ConfigError, StageError


@click.command("stop")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--detach", is_flag=True, help="Leave jobs of a cluster alone; the next 'dpsim run' finds them again.")
def command(run: Path | None, wait: float, detach: bool) -> None:
    """Ask the process that drives RUN to save and stop, and its jobs with it; 'dpsim run' goes on later."""
    from dpsim.workflow.records import locks

    store = find_run(run)
    owner = locks.read_owner(store.driver)
    if owner is None or owner.alive() is False:
        click.echo(f"{store.run_dir.name} is not running")
        return
    if owner.alive() is None:
        raise ConfigError(f"the run is driven by {owner}; stop it there")
    os.kill(owner.pid, signal.SIGHUP if detach else signal.SIGTERM)
    end = time.monotonic() + wait
    while owner.alive() and time.monotonic() < end:
        time.sleep(0.1)
    if owner.alive():
        raise StageError(f"{owner} has not stopped after {wait:g} s; wait, or end it with: kill -9 {owner.pid}")
    click.echo(f"{store.run_dir.name} is stopped")
