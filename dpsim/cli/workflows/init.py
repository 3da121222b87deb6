"""``dpsim init``."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import click

from dpsim.errors import ConfigError


def templates() -> dict[str, str]:
    """Return the texts of what comes with dpsim by name: templates of a minute or two, then the recipes."""
    folder = files("dpsim.recipes")
    found: dict[str, str] = {}
    for place in (folder / "templates", folder):
        for entry in sorted(place.iterdir(), key=lambda e: e.name):
            if entry.name.endswith(".yaml"):
                name = entry.name.removesuffix(".yaml")
                found[f"{name}-recipe" if name in found else name] = entry.read_text(encoding="utf-8")
    return found


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith("# ")), "").removeprefix("# ")


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--template", default="md", show_default=True, help="Name of a template or recipe; see --list.")
@click.option("--list", "list_them", is_flag=True, help="List the templates.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def command(folder: Path, template: str, list_them: bool, force: bool) -> None:
    """Write a starter workflow into FOLDER, with the schema that lets an editor help with it."""
    known = templates()
    if list_them:
        width = max(len(name) for name in known)
        for name, text in known.items():
            click.echo(f"{name:<{width}}  {_first_line(text)}")
        return
    if template not in known:
        from dpsim.workflow.language.problems import closest

        guess = closest(template, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"there is no template {template!r} (templates: {', '.join(known)}){hint}")
    target = folder / "workflow.yaml"
    if target.exists() and not force:
        raise ConfigError(f"{target} exists already; choose another folder, or replace it with --force")
    _write(target, known[template])
    click.echo(f"wrote {target}\nnext:  dpsim plan {target}\n       dpsim run {target}")


def _write(target: Path, text: str) -> None:
    from dpsim.workflow.language.json_schema import MODELINE, json_schema
    from dpsim.workflow.records.files import write_atomic

    schema = target.parent / ".dpsim" / "workflow.schema.json"
    schema.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(schema, json.dumps(json_schema(), indent=1) + "\n")
    modeline = MODELINE.format(path=".dpsim/workflow.schema.json")
    write_atomic(target, f"{modeline}\n{text}")
