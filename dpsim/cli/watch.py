"""``dpsim watch``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import find_run


@click.command("watch")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds.")
def command(run: Path | None, interval: float) -> int:
    """Follow RUN (a run directory or a workflow file) until it ends; reads files only, from any host."""
    from dpsim.cli.status import collect
    from dpsim.workflow.events import read_events

    store = find_run(run)
    offset = 0
    for offset, event in read_events(store.events):  # noqa: B007 - only the end is wanted
        del event
    shown_at: dict[str, float] = {}
    while True:
        for end, event in read_events(store.events, offset):
            offset = end
            _show(dict(event), shown_at)
        found = collect(store)
        if found["running"] is False:
            click.echo(f"{found['name']}: ended with exit {found['exit']}")
            return 0
        time.sleep(interval)


def _show(event: dict[str, Any], shown_at: dict[str, float]) -> None:
    from dpsim.workflow.progress import describe

    name, kind = str(event.get("stage") or ""), event.get("event")
    if kind == "progress":
        if event["time"] - shown_at.get(name, 0.0) < 2.0:
            return
        shown_at[name] = event["time"]
        text = describe(event)
    elif kind == "state":
        text = f"{event.get('state')} {event.get('reason') or ''}"
    elif kind in ("note", "busy", "error"):
        text = str(event.get("message"))
    else:
        return
    click.echo(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))}  {name}  {text.strip()}")
