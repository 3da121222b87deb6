"""``dpsim compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsim.cli.common import find_run, json_option, print_json, shown
from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from dpsim.report.compared_runs import ComparedRun
    from dpsim.workflow.records.store import Store


@click.command("compare")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--stage", "stages", multiple=True, metavar="STAGE", help="Only these stages; repeatable.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page as well.")
@json_option
def command(runs: tuple[Path, ...], stages: tuple[str, ...], html: Path | None, as_json: bool) -> None:
    """Lay RUNS side by side (run directories or workflow files): numbers of each stage, settings, versions."""
    from dpsim.report.compared_runs import compare_runs, write_page

    if len(runs) < 2:
        raise click.UsageError("name two runs or more, for example: dpsim compare runs/a runs/b")
    stores = [find_run(run) for run in runs]
    labels = _labels(stores)
    found = compare_runs([_read(store, label, stages) for store, label in zip(stores, labels, strict=True)])
    if not found.stages:
        raise ConfigError(f"no stage of {' or '.join(labels)} that is done has numbers to compare")
    if html is not None:
        write_page(found, html)
        click.echo(f"wrote {shown(html)}", err=True)
    if as_json:
        print_json(found.as_dict())
    elif html is None:
        click.echo(found.text())


def _labels(stores: list[Store]) -> list[str]:
    """Return the names of the run folders, with as much of the folders above as tells them apart."""
    for depth in range(1, 6):
        labels = ["/".join(store.run_dir.parts[-depth:]) for store in stores]
        if len(set(labels)) == len(labels):
            return labels
    return [str(store.run_dir) for store in stores]


def _read(store: Store, label: str, stages: tuple[str, ...]) -> ComparedRun:
    from dpsim.report.compared_runs import ComparedRun
    from dpsim.report.metrics import section_of
    from dpsim.workflow.language.yaml_loader import load_file
    from dpsim.workflow.records.files import read_json

    manifest = read_json(store.manifest)
    sections = {}
    seconds: dict[str, float] = {}
    for name, record in manifest.get("stages", {}).items():
        entry = store.entry(record["key"]) if record.get("key") else None
        wanted = not stages or name in stages or name.partition("@")[0] in stages
        if entry is None or not entry.is_done() or not wanted:
            continue
        described = entry.read("stage.json")
        if described.get("type") == "report":
            continue
        sections[name] = section_of(name, described, entry.out)
        took = entry.read("outputs.json").get("seconds")
        seconds |= {name: float(took)} if isinstance(took, int | float) else {}
    lock = store.run_dir / "workflow.lock.yaml"
    settings = load_file(lock).data if lock.is_file() else {}
    packages = {name: str(version) for name, version in manifest.get("packages", {}).items() if name != "mpi"}
    versions = {"dpsim": str((manifest.get("dpsim") or {}).get("version")), **packages}
    host = manifest.get("host") or {}
    versions |= {"cpu": str(host.get("cpu")), "gpu": ", ".join(host.get("gpu") or []) or "none"}
    return ComparedRun(label, sections, settings, versions, seconds)
