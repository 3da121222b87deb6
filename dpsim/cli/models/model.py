"""``dpsim model``: show, fetch, convert and adjust model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import ModelPath, json_option, print_json, shown
from dpsim.cli.models import model_card, model_deviation, model_pull
from dpsim.errors import ConfigError

_LABELS = {"type_map": "type map", "written_by": "written by", "observed_types": "observed types"}
_HEAD = click.option("--head", help="Branch of a multi-task model.")


@click.group("model")
def model() -> None:
    """Model files of dpsim and DeePMD-kit."""


model.add_command(model_card.command)
model.add_command(model_deviation.command)
model.add_command(model_pull.command)


@model.command("show")
@click.argument("file", type=ModelPath(exists=False))
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
@click.argument("source", metavar="IN", type=ModelPath(exists=False))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@_HEAD
def convert(source: Path, output: Path, head: str | None) -> None:
    """Write the model IN to OUT, by its suffix: .safetensors of dpsim, .dp or .yaml of DeePMD-kit."""
    from dpsim.calculators.model_summary import convert_model

    convert_model(source, output, head)
    click.echo(f"wrote {shown(output)}")


class _Numbers(click.Command):
    """A command whose option ``-b`` is followed by any number of numbers, negative ones included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write ``-b`` before each of its numbers, which is what click reads."""
        expanded: list[str] = []
        last = ""
        for word in args:
            follows = last in ("-b", "--bias", "number") and _is_number(word)
            if follows and last == "number":
                expanded.append("-b")
            expanded.append(word)
            last = "number" if follows else word
        return super().parse_args(ctx, expanded)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@model.command("change-bias", cls=_Numbers)
@click.argument("file", metavar="MODEL", type=ModelPath(exists=False))
@click.argument("systems", metavar="[SYSTEM]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("-m", "--mode", type=click.Choice(["change", "set"]),
              help="Add what the model leaves of the labels, or take what they say  [default: change]")  # fmt: skip
@click.option("-b", "--bias", "values", multiple=True, type=float, metavar="E1 E2 ...",
              help="Energies in eV, one an element, instead of data.")  # fmt: skip
@click.option(
    "-n", "--frames", type=click.IntRange(min=0), help="Frames of each system, evenly spaced; 0: all  [default]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="File to write  [default: MODEL with _updated.safetensors]")  # fmt: skip
@_HEAD
@json_option
def change_bias(
    file: Path,
    systems: tuple[Path, ...],
    mode: str | None,
    values: tuple[float, ...],
    frames: int | None,
    output: Path | None,
    head: str | None,
    as_json: bool,
) -> None:
    """Fit the output bias of MODEL to the labels of SYSTEM..., or give it, one number an element.

    The least-squares fit is over the numbers of atoms of each element. Energies that were given when the model was
    trained (preset_out_bias) are not fitted.
    """
    if values and (mode or frames):
        raise ConfigError("--mode and --frames say how data are used, and --bias gives numbers instead: leave them out")

    from dpsim.model.pretrained import is_kept
    from dpsim.train.start import bias

    if output is None and is_kept(file):
        output = Path(f"{file.stem}_updated.safetensors")
    path, change = bias.change_bias(
        file,
        list(systems) or None,
        output,
        mode="set" if mode == "set" else "change",
        values=values or None,
        head=head,
        frames_per_system=frames or None,
    )
    if as_json:
        print_json({"file": str(path), "mode": "given" if values else mode or "change", **change.as_dict()})
        return
    for line in change.lines():
        click.echo(line)
    click.echo(f"wrote {shown(path)}")


@model.command("mem")
@click.argument("file", metavar="MODEL", type=ModelPath(exists=False))
@click.option("--atoms", type=click.IntRange(min=1), help="Number of atoms  [default: those of STRUCTURE]")
@click.option("--structure", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="What the neighbourhoods are like; any format of ASE.")  # fmt: skip
@click.option("--density", type=click.FloatRange(min=0, min_open=True), default=0.1, show_default=True,
              help="Atoms in Å³, where there is no structure.")  # fmt: skip
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Of LAMMPS.")
@_HEAD
@json_option
def mem(
    file: Path, atoms: int | None, structure: Path | None, density: float, ranks: int, head: str | None, as_json: bool
) -> None:
    """Predict the memory of MD and training with MODEL on CPUs, without running it.

    A training counts the atoms of a batch, frames of any size together. MODEL is any model file that holds weights.
    """
    if atoms is None and structure is None:
        raise ConfigError("memory depends on the number of atoms: give --atoms, or --structure with as many")

    from dpsim.calculators.memory import made_up, predict_memory, sample_of
    from dpsim.train.records.state import read_model

    found = read_model(file, head)
    use = predict_memory(found, sample_of(structure) if structure else made_up(found, density), atoms, ranks)
    if as_json:
        print_json({"file": str(file), "ranks": ranks, **use._asdict()})
        return
    angles = f", {use.pairs:,} angles" if use.pairs else ""
    click.echo(f"{use.atoms:,} atoms, {use.edges:,} edges{angles}")
    each = f", each of {ranks} ranks" if ranks > 1 else ""
    uses = {"lammps": f"LAMMPS{each}", "python": "Python and ASE", "training": "training, a batch of so many atoms"}
    for name, label in uses.items():
        click.echo(f"{label}: {use.peak_mb[name]:,} MB")


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
        elif isinstance(value, list) and len(value) > 32 and isinstance(value[0], list):
            lines.append(f"{label}: {len(value)} rows of {len(value[0])} numbers")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += lines_of({f"{key} {index}": item for index, item in enumerate(value)}, indent)
        elif isinstance(value, list):
            lines.append(f"{label}: {' '.join(str(item) for item in value)}")
        else:
            lines.append(f"{label}: {value}{' Å' if key == 'cutoff' else ''}")
    return lines
