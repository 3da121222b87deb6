"""``dpsim watch``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsim.cli.common import find_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpsim.workflow.driver.following import Follower


@click.command("watch")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--interval", type=click.FloatRange(min=0.1), default=0.5, show_default=True, help="Seconds.")
def command(run: Path | None, interval: float) -> int:
    """Follow RUN (a run directory or a workflow file) until it ends; reads files only, from any host.

    On a terminal it is the tree that 'dpsim run' draws, elsewhere a line for each thing that happens. Ctrl-C ends the
    watching and leaves the run alone.
    """
    from dpsim.workflow.driver.following import Follower
    from dpsim.workflow.driver.progress import make_view

    store = find_run(run)
    follower = Follower(store, make_view(stream=sys.stdout), past_progress=sys.stdout.isatty())
    name = store.run_dir.name
    if not follow(follower, interval):
        click.echo(f"{name} goes on; look again with 'dpsim watch', end it with 'dpsim stop'", err=True)
        return 130
    how = "was interrupted" if follower.exit is None else f"ended with exit {follower.exit}"
    click.echo(f"{name}: {how}")
    return 0


def follow(follower: Follower, interval: float, is_over: Callable[[], bool] | None = None) -> bool:
    """Show a run until it ends; return False if Ctrl-C came first.

    Parameters
    ----------
    interval
        Time between two looks, s.
    is_over
        Whether the run has ended, if that is known from elsewhere than its files.
    """
    try:
        while True:
            over = (is_over or follower.is_over)()  # before the look, so that nothing written in between is missed
            follower.poll()
            if over or follower.exit is not None:
                return True
            time.sleep(interval)
    except KeyboardInterrupt:
        return False
    finally:
        follower.finish()
