"""``dpsim schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("schema")
@click.option("--presets", is_flag=True, help="List the models that `model: NAME` stands for instead.")
@click.option("--pages", type=click.Path(path_type=Path, file_okay=False), help="Write the reference pages there.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
def command(presets: bool, pages: Path | None, out: Path | None) -> None:
    """Print the JSON Schema of workflow files.

    With the line '# yaml-language-server: $schema=FILE' at the top of a workflow, editors complete and check it.
    """
    from dpsim.workflow.language.json_schema import json_schema
    from dpsim.workflow.records.files import write_atomic

    if pages is not None:
        _write_pages(pages)
        return
    text = _presets() if presets else json.dumps(json_schema(), indent=1) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    click.echo(f"wrote {out}", err=True)


def _write_pages(folder: Path) -> None:
    from dpsim.workflow.records.files import write_atomic
    from dpsim.workflow.reference.pages import pages

    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name, text in made.items():
        write_atomic(folder / name, text)
    click.echo(f"wrote {len(made)} pages in {folder}", err=True)


def _presets() -> str:
    from dpsim.model.presets import PRESETS

    lines = [f"{'preset':<18} {'cutoff':>7} {'parameters':>11}  (for two elements)"]
    for name, preset in PRESETS.items():
        cutoff = preset.descriptor.neighbors(2).cutoff
        lines.append(f"{name:<18} {cutoff:>5.1f} Å {preset.parameters:>11,}  {preset.about}")
    return "\n".join(lines) + "\n"
