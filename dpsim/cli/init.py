"""``dpsim init``."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import click

from dpsim.errors import ConfigError


def templates() -> dict[str, str]:
    """Return the recipes that come with dpsim, with the first line of each."""
    found = {}
    for entry in sorted(files("dpsim.recipes").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            first = next((line for line in entry.read_text(encoding="utf-8").splitlines() if line.startswith("# ")), "")
            found[entry.name.removesuffix(".yaml")] = first.removeprefix("# ")
    return found


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--template", default="quickstart", show_default=True, help="Name of a recipe; see --list.")
@click.option("--list", "list_them", is_flag=True, help="List the templates.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def command(folder: Path, template: str, list_them: bool, force: bool) -> None:
    """Write a starter workflow into FOLDER, with the schema that lets an editor help with it."""
    known = templates()
    if list_them:
        width = max(len(name) for name in known)
        for name, first in known.items():
            click.echo(f"{name:<{width}}  {first}")
        return
    if template not in known:
        from dpsim.workflow.problems import closest

        guess = closest(template, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"there is no template {template!r} (templates: {', '.join(known)}){hint}")
    target = folder / "workflow.yaml"
    if target.exists() and not force:
        raise ConfigError(f"{target} exists already; choose another folder, or replace it with --force")
    _write(target, files("dpsim.recipes").joinpath(f"{template}.yaml").read_text(encoding="utf-8"))
    click.echo(f"wrote {target}\nnext:  dpsim plan {target}\n       dpsim run {target}")


def _write(target: Path, text: str) -> None:
    from dpsim.workflow.files import write_atomic
    from dpsim.workflow.json_schema import MODELINE, json_schema

    schema = target.parent / ".dpsim" / "workflow.schema.json"
    schema.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(schema, json.dumps(json_schema(), indent=1) + "\n")
    modeline = MODELINE.format(path=".dpsim/workflow.schema.json")
    write_atomic(target, f"{modeline}\n{text}")
