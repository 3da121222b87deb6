"""``dpsim data``: convert data sets and look at them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from data_tools.convert import ConversionReport

_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
_type_map = click.option("--type-map", help='Elements in the order wanted, for example "O H".')
_output = click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
_layout = click.option(
    "--layout", type=click.Choice(["mixed", "npy", "lmdb", "extxyz"]), default="mixed", show_default=True,
    help="deepmd/npy/mixed, deepmd/npy, one database of DeePMD-kit, or a file of extended XYZ.",
)  # fmt: skip
_property = click.option(
    "--property", "property_name", default="", help="Name of a property of frames: its array, or key."
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a data set that dpsim wrote; nothing else is.")
_split = click.option("--split", "shares", help='Shares of the parts, for example "train=0.8,valid=0.1,test=0.1".')
_seed = click.option("--seed", default=0, show_default=True, help="Of the split.")
_by = click.option(
    "--by",
    type=click.Choice(["frame", "structure", "trajectory", "formula"]),
    default="frame",
    show_default=True,
    help="What stays together in a split.",
)
_near = [
    click.option("--tol", help="Near duplicates too: largest difference of two distances, '0.05 angstrom'."),
    click.option("--energy-tol", help="Of near duplicates: largest difference of the energies of an atom, '5 meV'."),
]
_outliers = [
    click.option("--outliers", "method", type=click.Choice(["mad", "iqr"]), default="mad", show_default=True,
                 help="What counts as far from the rest: by median or by quartiles."),
    click.option("--factor", type=float, help="How far is far; by default 10 with mad, 5 with iqr."),
]  # fmt: skip
_limits = [
    click.option("--force-max", type=float, help="eV/Å; report larger forces."),
    click.option("--min-distance", type=float, help="Å; report closer atoms."),
]
FLAWS = (
    "nan", "bad_cell", "missing_type", "missing_label", "too_close", "force_outlier", "energy_outlier", "duplicate",
    "near_duplicate",
)  # fmt: skip
"""As `data_tools.clean_config.Removable`, which is not imported for ``--help``."""


def _several(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return one decorator for several options, which are listed in this order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


_paths = click.argument("paths", nargs=-1, required=True)


@click.group()
def data() -> None:
    """Convert data sets and look at them."""


@data.command()
@_paths
@_output
@click.option("--format", "form", help="Format of all sources; guessed where that is safe.")
@click.option("--key", "keys", multiple=True, help="Key of a label in extended XYZ: energy=REF_energy.")
@click.option("--unit", "units", multiple=True, help="Unit of a label in extended XYZ: energy=hartree.")
@click.option("--index", help="Frames of each file, as in ASE: ::10")
@click.option("--drop", multiple=True, type=click.Choice(["unlabelled", "duplicates", "near_duplicates"]),
              help="Frames to leave out.")  # fmt: skip
@_several(_near)
@_type_map
@_split
@_by
@_seed
@_layout
@_property
@_overwrite
@_as_json
def convert(
    paths: tuple[str, ...],
    output: Path,
    form: str | None,
    keys: tuple[str, ...],
    units: tuple[str, ...],
    index: str | None,
    drop: tuple[Any, ...],
    tol: str | None,
    energy_tol: str | None,
    type_map: str | None,
    shares: str | None,
    by: Any,
    seed: int,
    layout: Any,
    property_name: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert files, folders and globs to one data set (deepmd/npy/mixed) and print the table of labels."""
    from data_tools.convert import Source

    common = {"format": form, "keys": _pairs(keys, "--key"), "units": _pairs(units, "--unit"), "index": index}
    sources = [_validated(Source, {"path": path, **common}) for path in paths]
    form_of_output = {"layout": layout, "property_name": property_name, "overwrite": overwrite}
    near = _near_of(tol, energy_tol)
    if near is not None and "near_duplicates" not in drop:
        raise click.UsageError("--tol and --energy-tol are those of --drop near_duplicates")
    form_of_output["near"] = near
    _convert(sources, output, as_json, type_map, shares, by, seed, drop, **form_of_output)


@data.command()
@_paths
@_output
@click.option(
    "--split", "shares", default="train=0.8,valid=0.1,test=0.1", show_default=True, help="Shares of the parts."
)
@_type_map
@_by
@_seed
@_layout
@_property
@_overwrite
@_as_json
def split(
    paths: tuple[str, ...],
    output: Path,
    shares: str,
    type_map: str | None,
    by: Any,
    seed: int,
    layout: Any,
    property_name: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Divide data sets into training, validation and test parts."""
    form_of_output = {"layout": layout, "property_name": property_name, "overwrite": overwrite}
    _convert(_systems(paths), output, as_json, type_map, shares, by, seed, (), **form_of_output)


@data.command()
@_paths
@_output
@_several(_near)
@_type_map
@_layout
@_property
@_overwrite
@_as_json
def dedupe(
    paths: tuple[str, ...],
    output: Path,
    tol: str | None,
    energy_tol: str | None,
    type_map: str | None,
    layout: Any,
    property_name: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write data sets as one without frames that occur twice, or with --tol, nearly so."""
    near = _near_of(tol, energy_tol)
    drop = ("duplicates",) if near is None else ("duplicates", "near_duplicates")
    form_of_output = {"layout": layout, "property_name": property_name, "overwrite": overwrite, "near": near}
    _convert(_systems(paths), output, as_json, type_map, None, "frame", 0, drop, **form_of_output)


@data.command()
@_paths
@_output
@click.option("--drop", multiple=True, required=True, type=click.Choice(FLAWS), help="Frames to take out.")
@_several([*_near, *_outliers, *_limits])
@_type_map
@_layout
@_property
@_overwrite
@_as_json
def clean(
    paths: tuple[str, ...],
    output: Path,
    drop: tuple[str, ...],
    tol: str | None,
    energy_tol: str | None,
    method: Any,
    factor: float | None,
    force_max: float | None,
    min_distance: float | None,
    type_map: str | None,
    layout: Any,
    property_name: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a data set, with its parts, without the frames that something is wrong with."""
    from data_tools.clean import clean_dataset
    from data_tools.clean_config import Outliers
    from dpsim.data import open_dataset

    near = _near_of(tol, energy_tol)
    if near is not None and "near_duplicate" not in drop:
        raise click.UsageError("--tol and --energy-tol are those of --drop near_duplicate")
    whole: Any = paths[0] if len(paths) == 1 else open_dataset(paths, property_name=property_name)
    with _progress("frames") as advance:
        report = clean_dataset(
            whole,
            output,
            drop,
            layout=layout,
            overwrite=overwrite,
            property_name=property_name,
            type_map=_names(type_map),
            force_max=force_max,
            min_distance=min_distance,
            outliers=_validated(Outliers, {"method": method, "factor": factor}),
            near=near,
            progress=advance,
        )
    if as_json:
        _print_json({"output": str(output), **report.to_dict()})
        return
    for flaw, count in report.counts_removed().items():
        click.echo(f"taken out as {flaw}: {count}")
    parts = ", ".join(f"{part or 'frames'} {len(rows)}" for part, rows in report.kept.items())
    click.echo(f"wrote {output}: {parts}")


@data.command()
@_paths
@_type_map
@click.option("--frames", is_flag=True, help="List every frame with its composition and labels.")
@click.option("--distances", is_flag=True, help="Find the closest pair of atoms of every system.")
@_property
@_as_json
def show(
    paths: tuple[str, ...], type_map: str | None, frames: bool, distances: bool, property_name: str, as_json: bool
) -> None:
    """Print systems, compositions and labels of data sets."""
    from dpsim.data import open_dataset
    from dpsim.data.summary import format_table, summarize

    dataset = open_dataset(paths, _names(type_map), property_name=property_name)
    summary = summarize(dataset, distances=distances)
    rows = [
        {
            "frame": f"{system.name}#{i}",
            "formula": system.formula(i),
            "atoms": len(system.types(i)),
            "origin": system.origin(i),
        }
        for system in (dataset.systems if frames else ())
        for i in range(system.n_frames)
    ]
    if as_json:
        _print_json({**summary.to_dict(), **({"listed": rows} if frames else {})})
        return
    click.echo(f"type_map: {' '.join(dataset.type_map)}")
    click.echo(summary.table())
    if frames:
        click.echo("\n" + format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))


@data.command()
@_paths
@_type_map
@_several([*_near, *_outliers, *_limits])
@_as_json
def stats(
    paths: tuple[str, ...],
    type_map: str | None,
    tol: str | None,
    energy_tol: str | None,
    method: Any,
    factor: float | None,
    force_max: float | None,
    min_distance: float | None,
    as_json: bool,
) -> None:
    """Print the spread of labels, and what looks wrong: NaN, duplicates, collisions, outliers."""
    from data_tools.clean_config import Outliers
    from data_tools.inspect import inspect_dataset
    from data_tools.measure import field_statistics, statistics_text
    from dpsim.data import open_dataset

    whole: Any = paths[0] if len(paths) == 1 else open_dataset(paths)
    report = inspect_dataset(
        whole,
        type_map=_names(type_map),
        force_max=force_max,
        min_distance=min_distance,
        outliers=_validated(Outliers, {"method": method, "factor": factor}),
        near=_near_of(tol, energy_tol),
    )
    broken = report.count("nan") + report.count("bad_cell")
    rows = [] if broken else field_statistics(open_dataset(paths))
    if as_json:
        _print_json({"fields": [asdict(row) for row in rows], **report.to_dict()})
        return
    click.echo(report.table)
    if rows:
        click.echo("\n" + statistics_text(rows))
    click.echo("")
    for problem in report.problems:
        click.echo(f"{problem.kind} ({len(problem.frames)} frames): {problem.message}")
    if not report.problems:
        click.echo("no problems found")


@data.command()
@_paths
@click.option("--cutoff", default="6 angstrom", show_default=True, help="Radius within which neighbours are counted.")
@_type_map
@_as_json
def neighbors(paths: tuple[str, ...], cutoff: str, type_map: str | None, as_json: bool) -> None:
    """Count neighbours within a cutoff, and find the closest pair."""
    from data_tools.measure import neighbor_statistics
    from dpsim.data import open_dataset
    from dpsim.units import parse_quantity

    found = neighbor_statistics(open_dataset(paths, _names(type_map)), parse_quantity(cutoff, "length"))
    if as_json:
        _print_json(found.to_dict())
        return
    by_type = ", ".join(f"{name} {count}" for name, count in found.most_by_type.items())
    click.echo(f"within {found.cutoff:g} Å: {found.mean:.1f} neighbours on average, at most {found.most} ({by_type})")
    if found.min_distance is not None:
        click.echo(f"closest pair: {found.min_distance:.3f} Å in {found.nearest}")


def _convert(
    sources: list[Any],
    output: Path,
    as_json: bool,
    type_map: str | None,
    shares: str | None,
    by: Any,
    seed: int,
    drop: tuple[Any, ...],
    **form_of_output: Any,
) -> None:
    from data_tools.convert import convert as run

    parts = (
        {name: _number(value, name) for name, value in _pairs(shares.split(","), "--split").items()} if shares else None
    )
    with _progress("files") as advance:
        report = run(
            sources,
            output,
            type_map=_names(type_map),
            split=parts,
            by=by,
            seed=seed,
            drop=drop,
            on_progress=advance,
            **form_of_output,
        )
    _print_json(report.to_dict()) if as_json else _print_report(report)


def _print_report(report: ConversionReport) -> None:
    click.echo(report.table())
    if report.renamed:
        click.echo("read as elements: " + ", ".join(f"{old} as {new}" for old, new in report.renamed.items()))
    parts = ", ".join(f"{name} {count}" for name, count in report.parts.items() if name != ".")
    divided = f" ({parts})" if parts else ""
    click.echo(f"wrote {report.output}: {report.frames} frames{divided}, type_map {' '.join(report.type_map)}")


def _systems(paths: tuple[str, ...]) -> list[Any]:
    from data_tools.convert import Source

    return [Source(path=path) for path in paths]


def _names(text: str | None) -> list[str] | None:
    return text.replace(",", " ").split() if text else None


def _pairs(texts: tuple[str, ...] | list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise click.BadParameter(f"{text!r} is not of the form name=value", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs


def _number(text: str, name: str) -> float:
    from dpsim.units import parse_quantity

    try:
        return parse_quantity(text, "fraction")
    except Exception as error:
        raise click.BadParameter(f"{name}: {error}", param_hint="--split") from None


def _validated(config: Any, values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from dpsim.config import all_problems
    from dpsim.errors import ConfigError

    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(all_problems(error))) from None


def _near_of(tol: str | None, energy: str | None) -> Any:
    """Return what counts as a near duplicate; None if neither tolerance is given."""
    from data_tools.clean_config import NearDuplicates

    given = {name: value for name, value in (("tol", tol), ("energy", energy)) if value is not None}
    return _validated(NearDuplicates, given) if given else None


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show progress on standard error, if somebody watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=Path(text).name)
