"""``dpsim report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import find_run, shown
from dpsim.errors import ConfigError


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder  [default: RUN/report]")
def command(run: Path | None, output: Path | None) -> None:
    """Build the report of all stages of RUN that are done (a run directory or a workflow file)."""
    from dpsim.report.build import Section, build_report
    from dpsim.workflow.records.files import read_json

    store = find_run(run)
    manifest = read_json(store.manifest)
    sections = []
    records = manifest.get("stages", {})
    for name in _shown_stages(records):
        record = records[name]
        entry = store.entry(record["key"]) if record.get("key") else None
        if entry is None or not entry.is_done():
            continue
        described = entry.read("stage.json")
        if described.get("type") != "report":
            sections.append(Section(name, str(described.get("type")), entry.out, dict(described.get("options", {}))))
    if not sections:
        raise ConfigError(f"no stage of {shown(store.run_dir)} is done yet, so there is nothing to report")
    target = output or store.run_dir / "report"
    if output is None and target.is_symlink():
        target.unlink()  # the report of a stage stays in the store; this one replaces the link to it
    target.mkdir(parents=True, exist_ok=True)
    click.echo(shown(build_report(sections, target, manifest)))


def _shown_stages(records: dict[str, Any]) -> list[str]:
    """Return the stages to show: of a loop its end, or its last iteration as long as it is not done."""
    inner: dict[str, list[str]] = {}
    for name in records:
        loop, dot, _ = name.partition("@")[0].partition(".")
        if dot:
            inner.setdefault(loop, []).append(name)
    hidden: set[str] = set()
    for loop, names in inner.items():
        ended = records.get(loop, {}).get("state") in ("done", "cached")
        newest = max(int(name.split(".")[1]) for name in names)
        hidden |= {name for name in names if ended or int(name.split(".")[1]) != newest}
    return [name for name in records if name not in hidden]
