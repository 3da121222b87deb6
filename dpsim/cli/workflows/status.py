"""``dpsim status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsim.cli.common import find_run, json_option, print_json, shown, table

if TYPE_CHECKING:
    from dpsim.workflow.records.store import Store


@click.command("status")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@json_option
def command(run: Path | None, as_json: bool) -> None:
    """Show how far RUN is: a run directory or a workflow file, by default the latest in runs/."""
    store = find_run(run)
    found = collect(store)
    if as_json:
        print_json(found)
        return
    click.echo(render(found, store))


def collect(store: Store) -> dict[str, Any]:
    """Return the state of a run from its manifest and events."""
    from dpsim.workflow.records import locks
    from dpsim.workflow.records.events import read_events
    from dpsim.workflow.records.files import read_json

    manifest = read_json(store.manifest)
    driver = locks.read_owner(store.driver)
    alive = driver.alive() if driver is not None else False
    progress: dict[str, Any] = {}
    for _, event in read_events(store.events):
        if event.get("event") == "progress" and event.get("stage"):
            progress[event["stage"]] = event
    stages = {}
    for name, record in manifest.get("stages", {}).items():
        state = record.get("state", "waiting")
        job = record.get("job", "")
        if state in ("queued", "running") and alive is False and not job:
            state = "interrupted"  # the driver was killed
        attempts = record.get("attempts", [])
        stages[name] = {
            "state": state,
            "reason": record.get("reason", ""),
            "job": job,
            "seconds": round(attempts[-1]["end"] - attempts[-1]["start"], 1) if attempts else None,
            "progress": progress.get(name),
        }
    return {
        "name": manifest.get("name"),
        "run_dir": str(store.run_dir),
        "running": alive,
        "driver": str(driver) if driver is not None and alive is not False else None,
        "exit": manifest.get("exit"),
        "stages": stages,
    }


def render(found: dict[str, Any], store: Store) -> str:
    """Return the state of a run as text."""
    from dpsim.workflow.driver.progress import describe, duration

    rows = []
    for name, stage in found["stages"].items():
        seconds = stage["seconds"]
        detail = stage["reason"] if stage["reason"] != stage["state"] else ""
        if stage["state"] == "running" and stage["progress"]:
            detail = "  ".join(part for part in (describe(stage["progress"]), stage["job"]) if part)
        if stage["job"] and found["running"] is False:
            detail = f"{stage['job']} when last seen; 'dpsim run' finds it again"
        rows.append([name, stage["state"], duration(seconds) if seconds is not None else "", detail])
    if found["running"] is None:
        head = f"{found['name']}: driven by {found['driver']}, another machine"
    elif found["running"]:
        head = f"{found['name']}: running ({found['driver']})"
    else:
        code = found["exit"]
        head = f"{found['name']}: not running, " + ("was interrupted" if code is None else f"last exit {code}")
    return f"{head}, in {shown(store.run_dir)}\n" + table(rows, ["stage", "state", "took", ""])
