"""``dpsim model``: show and convert model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import json_option, print_json, shown

_LABELS = {"type_map": "type map", "written_by": "written by", "observed_types": "observed types"}
_HEAD = click.option("--head", help="Branch of a multi-task model.")


@click.group("model")
def model() -> None:
    """Model files of dpsim and DeePMD-kit."""


@model.command("show")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_HEAD
@json_option
def show(file: Path, head: str | None, as_json: bool) -> None:
    """Print what FILE holds: elements, cutoff, networks, heads, number of parameters.

    FILE is .safetensors, .ckpt or .pt2 of dpsim, or .dp, .yaml, .pt or .pth of DeePMD-kit. Of descriptor and fitting
    those settings are named that are not the default.
    """
    from dpsim.calculators.model_summary import summarize

    facts = summarize(file, head)
    if as_json:
        print_json({"file": str(file), **facts})
        return
    click.echo(f"file: {file}")
    for line in lines_of(facts):
        click.echo(line)


@model.command("convert")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@_HEAD
def convert(source: Path, output: Path, head: str | None) -> None:
    """Write the model IN to OUT, by its suffix: .safetensors of dpsim, .dp or .yaml of DeePMD-kit."""
    from dpsim.calculators.model_summary import convert_model

    convert_model(source, output, head)
    click.echo(f"wrote {shown(output)}")


def lines_of(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as text, one a line; units where they are known."""
    lines = []
    for key, value in facts.items():
        label = f"{indent}{_LABELS.get(key, key)}"
        if key == "parameters":
            counts = ", ".join(f"{name} {count:,}" for name, count in value.items() if count)
            lines.append(f"{label}: {counts}")
        elif key == "provenance":
            plain = [f"{name} {item}" for name, item in value.items() if item and not isinstance(item, dict)]
            lines += [f"{label}: {', '.join(plain)}"] if plain else []
        elif isinstance(value, dict):
            kind = value.get("type")
            rest = {k: v for k, v in value.items() if k != "type"}
            lines.append(f"{label}:{f' {kind}' if kind else ''}")
            lines += lines_of(rest, indent + "  ")
        elif isinstance(value, list):
            lines.append(f"{label}: {' '.join(str(item) for item in value)}")
        else:
            lines.append(f"{label}: {value}{' Å' if key == 'cutoff' else ''}")
    return lines
