"""``dpsim show``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsim.cli.common import find_run, find_stage, json_option, print_json, shown, table
from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from dpsim.cli.workflows.text_plot import Curves
    from dpsim.workflow.records.store import Entry

_ROWS = 20
_TEXT_BYTES = 4000


@click.command("show")
@click.argument("what", metavar="STAGE[.OUTPUT]")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@json_option
def command(what: str, run: Path | None, as_json: bool) -> None:
    """Print what a stage of RUN made: its outputs, numbers and main curves, or one output.

    An output is a table, a text or a list of files; curves (training, RDF, MSD, bands, equation of state) are drawn as
    well. STAGE.NAME is also the file NAME.csv beside the declared outputs, as in 'melt.rdf'.
    """
    from dpsim.workflow.language.problems import closest
    from dpsim.workflow.records.files import read_json

    store = find_run(run)
    stages = read_json(store.manifest).get("stages", {})
    # The values of a matrix point may hold dots: the longest stage name that fits wins.
    known = [name for name in stages if what == name or what.startswith(name + ".")]
    name = max(known, key=len) if known else find_stage(store, what.partition(".")[0])
    output = what[len(name) + 1 :] if known else what.partition(".")[2]
    record = stages[name]
    entry = store.entry(record["key"]) if record.get("key") else store.linked().get(name)
    if entry is None or not entry.is_done():
        raise ConfigError(f"stage {name!r} is {record.get('state', 'waiting')}, so it has no outputs yet")
    outputs: dict[str, Any] = entry.read("outputs.json").get("outputs", {})
    if not output:
        _stage(name, entry, outputs, as_json)
        return
    beside = _beside(entry.out, output) if output not in outputs else None
    if beside is not None:
        _output(beside, as_json)
        return
    if output not in outputs:
        guess = closest(output, outputs)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"stage {name!r} has no output {output!r} (outputs: {', '.join(outputs)}){hint}")
    _output(entry.out / outputs[output]["path"], as_json)


def _beside(folder: Path, name: str) -> Path | None:
    """Return the file of a stage that is no declared output: one at the top of its folder, with or without suffix."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return next((path for path in files if name in (path.name, path.stem)), None)


def _draw(curves: list[Curves]) -> None:
    from dpsim.cli.workflows.text_plot import draw

    for one in curves:
        click.echo(f"\n{draw(one)}")


def _stage(name: str, entry: Entry, outputs: dict[str, Any], as_json: bool) -> None:
    from dpsim.cli.workflows.curves import main_curves
    from dpsim.report.metrics import section_of, stage_metrics, unit_of

    described = entry.read("stage.json")
    metrics = stage_metrics(section_of(name, described, entry.out))
    if as_json:
        print_json({"stage": name, "type": described.get("type"), "outputs": outputs, "metrics": metrics})
        return
    rows = [
        [output, record["kind"], f"{record['size'] / 1e6:.3f} MB", shown(entry.out / record["path"])]
        for output, record in outputs.items()
    ]
    click.echo(table(rows, ["output", "kind", "size", "path"]))
    if metrics:
        lines = [[key, f"{value:.6g}", unit_of(key)] for key, value in metrics.items()]
        click.echo("\n" + table(lines, ["number", "value", "unit"]))
    _draw(main_curves(entry.out))


def _output(path: Path, as_json: bool) -> None:
    from dpsim.cli.workflows.curves import curves_of

    if path.is_dir():
        files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        print_json(files) if as_json else click.echo("\n".join(files))
    elif path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        print_json(value)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if as_json:
            print_json([dict(zip(header, row, strict=False)) for row in rows])
            return
        left_out = [["..."] + [""] * (len(header) - 1)] if len(rows) > _ROWS else []
        half = _ROWS // 2
        click.echo(table([*rows[:half], *left_out, *rows[-half:]] if left_out else rows, header))
    else:
        _text(path, as_json)
    if path.is_file() and not as_json:
        _draw(curves_of(path))


def _text(path: Path, as_json: bool) -> None:
    with path.open("rb") as file:
        head = file.read(_TEXT_BYTES)
    size = path.stat().st_size
    if as_json or b"\0" in head:
        found = {"path": str(path), "bytes": size}
        print_json(found) if as_json else click.echo(f"{shown(path)}: {size / 1e6:.3f} MB, no text")
        return
    click.echo(head.decode("utf-8", "replace").rstrip("\n"))
    if size > _TEXT_BYTES:
        click.echo(f"... {size / 1e6:.3f} MB in {shown(path)}")
