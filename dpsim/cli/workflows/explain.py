"""``dpsim explain``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.common import find_run, find_stage, json_option, print_json
from dpsim.errors import ConfigError


@click.command("explain")
@click.argument("what")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@json_option
def command(what: str, run: Path | None, as_json: bool) -> None:
    """Explain an error code (E304), or how a stage of RUN got its cache key."""
    from dpsim.workflow.language.codes import CODES
    from dpsim.workflow.language.problems import closest

    code = what.upper()
    if code in CODES:
        entry = CODES[code]
        if as_json:
            print_json({"code": code, "title": entry.title, "page": entry.page})
        else:
            click.echo(f"{code}: {entry.title}\n")
            click.echo(click.wrap_text(entry.page, width=100))
        return
    if len(code) == 4 and code[0] == "E" and code[1:].isdigit():
        guess = closest(code, CODES)
        hint = f"; the nearest is {guess}" if guess else ""
        raise ConfigError(f"there is no error code {code} (E101 to {max(CODES)}){hint}")
    _explain_stage(what, run, as_json)


def _explain_stage(what: str, run: Path | None, as_json: bool) -> None:
    """Print what the key of a stage is made of, and what changed since the last different one."""
    from dpsim.workflow.records.digest import canonical_json
    from dpsim.workflow.records.files import read_json

    store = find_run(run)
    name = find_stage(store, what)
    record = read_json(store.manifest)["stages"][name]
    if not record.get("key"):
        raise ConfigError(f"stage {name!r} has no key yet, since a stage before it is not done")
    entry = store.entry(record["key"])
    described, inputs = entry.read("stage.json"), entry.read("inputs.json").get("inputs", [])
    if as_json:
        print_json({"stage": name, "key": record["key"], "parts": described.get("parts"), "inputs": inputs})
        return
    parts = described.get("parts", {})
    click.echo(f"{name}  {record['state']}")
    click.echo(f"key      {record['key']} = BLAKE2b-160 of the canonical JSON of:")
    for part in ("type", "result_version", "seed"):
        click.echo(f"  {part}: {parts.get(part)}")
    click.echo("  options:")
    for option, value in parts.get("options", {}).items():
        click.echo(f"    {option}: {canonical_json(value).decode()}")
    click.echo("  inputs:")
    for item in inputs:
        origin = item["task"] or item["paths"][0]
        click.echo(f"    {item['place']}: {item['digest']}  ({origin})")
    soft = ", ".join(f"{package} {version}" for package, version in described.get("soft", {}).items())
    click.echo(f"made with  {soft}  (not in the key unless 'cache: strict')")
    _others(name, record["key"], parts, store)


def _others(name: str, key: str, parts: dict[str, object], store: object) -> None:
    """Print how other results of the same stage in the store differ."""
    from dpsim.workflow.planning.key import difference
    from dpsim.workflow.records.store import Store

    assert isinstance(store, Store)
    for entry in store.entries():
        other = entry.read("stage.json")
        if entry.key != key and other.get("name") == name and other.get("type") == parts.get("type"):
            reasons = "; ".join(difference(other.get("parts", {}), parts))
            click.echo(f"differs from {entry.key[:10]}: {reasons}")
