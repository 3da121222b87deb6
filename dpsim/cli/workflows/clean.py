"""``dpsim clean``."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsim.cli.common import find_run, shown
from dpsim.errors import StageError

if TYPE_CHECKING:
    from dpsim.workflow.records.store import Entry, Store


@click.command("clean")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--unreferenced", is_flag=True, help="Delete results that no stage of the last run uses.")
@click.option("--work", is_flag=True, help="Delete the work folders of stages that are done.")
@click.option("--older-than", default="0 s", show_default=True, help="Only what is older, for example '30 d'.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def command(run: Path | None, unreferenced: bool, work: bool, older_than: str, dry_run: bool) -> None:
    """Free the space of old results of RUN (a run directory or a workflow file)."""
    from dpsim.units import parse_quantity
    from dpsim.workflow.records import locks
    from dpsim.workflow.records.store import size_of

    if not (unreferenced or work):
        raise click.UsageError("say what to delete: --unreferenced, --work, or both")
    store = find_run(run)
    owner = locks.read_owner(store.driver)
    if owner is not None and owner.alive() is not False:
        raise StageError(f"{store.run_dir.name} is being run by {owner}; stop it first")
    before = time.time() - parse_quantity(older_than, "walltime")
    freed = 0
    for path in _candidates(store, unreferenced=unreferenced, work=work):
        if path.stat().st_mtime > before:
            continue
        freed += size_of(path)
        click.echo(f"{'would delete' if dry_run else 'deleting'} {shown(path)}")
        if not dry_run:
            shutil.rmtree(path)
    click.echo(f"{'would free' if dry_run else 'freed'} {freed / 1e6:.1f} MB")


def _candidates(store: Store, *, unreferenced: bool, work: bool) -> list[Path]:
    used = _used(store)
    found = []
    for entry in list(store.entries()):
        if unreferenced and entry.key not in used:
            found.append(entry.path)
        elif work and entry.is_done() and (entry.path / "work").is_dir():
            found.append((entry.path / "work").resolve())
    return list(dict.fromkeys(found))


def _used(store: Store) -> set[str]:
    """Return the keys of entries that the last run refers to, and of those that hold their work folders."""
    from dpsim.workflow.records.files import read_json

    records = read_json(store.manifest).get("stages", {}).values()
    keys = {record["key"] for record in records if record.get("key")}
    keys |= {entry.key for entry in store.linked().values()}
    entries: list[Entry] = [store.entry(key) for key in keys]
    return keys | {str(e.read("stage.json").get("work", "//")).split("/")[1] for e in entries}
