"""From the outputs of any code to one data set, with a table of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from data_tools.extxyz import KeyUse
from data_tools.layouts import LAYOUTS, Layout
from data_tools.near import NearDuplicates, find_near_duplicates
from data_tools.read import Elements, read_file
from data_tools.sources import Source, SourceFile, find_files
from dpsim.data import Frame
from dpsim.data.files import CARD, check_apart, check_output, new_folder, write_json
from dpsim.data.frame import check_cell, check_frame, fingerprint
from dpsim.data.split import By, group_keys, split_frames
from dpsim.data.summary import format_table
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field, fields_of_property

__all__ = ["ConversionReport", "Drop", "Source", "SourceReport", "convert", "read_sources"]

Drop = Literal["unlabelled", "duplicates", "near_duplicates"]
"""Frames that may be left out: without energy, forces and virial; equal to an earlier one, or nearly so."""
Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and the name of the file just read."""


@dataclass
class SourceReport:
    """What one source gave."""

    path: str
    formats: list[str]
    files: int = 0
    frames: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    """Number of frames that carry each field."""
    keys: dict[str, dict[str, int]] = field(default_factory=dict)
    """For extended XYZ: label, key, number of frames."""
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class ConversionReport:
    """What was converted, from where, and how it was divided."""

    output: str
    type_map: list[str]
    frames: int
    fields: dict[str, int]
    sources: list[SourceReport]
    parts: dict[str, int]
    """Number of frames in each part; one part named ``.`` without a split."""
    split: dict[str, Any] | None
    compositions: dict[str, int]
    renamed: dict[str, str]
    """Names of atoms that were read as an element, for example ``Fe1`` as ``Fe``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return the label table: one line a source, with the number of frames that carry each field, and the key."""
        shown = [entry.name for entry in FIELDS if entry.name in self.fields]
        rows = []
        for source in self.sources:
            cells = [source.path, ", ".join(source.formats), str(source.files), str(source.frames)]
            for name in shown:
                keys = ", ".join(source.keys.get(name, {}))
                cells.append(f"{source.fields.get(name, 0)}{f' ({keys})' if keys else ''}")
            rows.append([*cells, ", ".join(f"{count} {why}" for why, count in source.dropped.items())])
        totals = [str(self.fields[name]) for name in shown]
        rows.append(["total", "", str(sum(source.files for source in self.sources)), str(self.frames), *totals, ""])
        header = ["source", "format", "files", "frames", *shown, "dropped"]
        if not any(row[-1] for row in rows):
            header, rows = header[:-1], [row[:-1] for row in rows]
        return format_table(header, rows)


def convert(
    sources: Iterable[Source | str | Path],
    output: str | Path,
    *,
    type_map: Sequence[str] | None = None,
    split: Mapping[str, float] | None = None,
    keep: Mapping[int, str] | None = None,
    by: By = "frame",
    seed: int = 0,
    drop: Sequence[Drop] = (),
    near: NearDuplicates | None = None,
    layout: Layout = "mixed",
    property_name: str = "",
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> ConversionReport:
    """Convert sources into one data set, whole or not at all.

    Parameters
    ----------
    sources
        Files, folders and globs, with format, keys and units where they cannot be guessed.
    output
        Folder that is made: mixed systems, one for each number of atoms, in a folder for each part of the split,
        and ``dataset.json`` with the report.
    type_map
        Symbols in the order wanted; an element outside is an error. None takes those that occur, by atomic number.
    split
        Share of each part, for example ``{"train": 0.8, "valid": 0.1, "test": 0.1}``.
    keep
        Part in which all frames of a source stay, by the number of the source; only the others are divided.
    by
        What stays together in a split.
    seed
        Of the split.
    drop
        Frames to leave out instead of complaining: unlabelled (an error otherwise), duplicates and near duplicates
        (kept otherwise); of those the first one stays.
    near
        What counts as a near duplicate, where these are dropped.
    layout
        ``mixed``: a folder for each number of atoms; ``npy``: one for each sequence of elements; ``lmdb``: all in one
        database; ``extxyz``: all in one file ``frames.extxyz``.
    property_name
        A property that frames are labelled with, of any number of components: its name is that of the array, or of
        the key in extended XYZ.
    overwrite
        Whether a data set of dpsim at `output` is replaced; nothing else ever is.
    on_progress
        Called after every file.

    Raises
    ------
    DataError
        If a source matches nothing or cannot be read, an element or label is wrong, or `output` exists and may not be
        replaced; all sources are looked at first, so that one message names all that is wrong.
    """
    declared = [one if isinstance(one, Source) else Source(path=str(one)) for one in sources]
    for why in drop:
        if why not in get_args(Drop):
            raise DataError(f"drop {why!r} is not known, expected one of {', '.join(get_args(Drop))}")
    if layout not in get_args(Layout):
        raise DataError(f"layout {layout!r} is not known, expected one of {', '.join(get_args(Layout))}")
    output = Path(output)
    check_output(output, overwrite=overwrite)
    frames, names, reports, elements = read_sources(
        declared, type_map, drop=drop, property_name=property_name, output=output, on_progress=on_progress
    )
    if "near_duplicates" in drop:
        frames = _without_near(frames, names, reports, near, on_progress)
    parts = {"": list(range(len(frames)))}
    if split is not None:
        fixed = [keep.get(i) if keep else None for i, one in enumerate(reports) for _ in range(one.frames)]
        parts = _divide(frames, fixed, split, by, seed, names)
    report = ConversionReport(
        output=str(output),
        type_map=list(names),
        frames=len(frames),
        fields=_count_fields(frames),
        sources=reports,
        parts={name or ".": len(indices) for name, indices in parts.items()},
        split=None if split is None else {"shares": dict(split), "by": by, "seed": seed},
        compositions=dict(Counter(frame.formula(names) for frame in frames).most_common()),
        renamed=elements.renamed,
    )
    _write(output, parts, frames, names, report, layout, fields_of_property(property_name))
    return report


def _divide(
    frames: Sequence[Frame],
    fixed: Sequence[str | None],
    split: Mapping[str, float],
    by: By,
    seed: int,
    names: Sequence[str],
) -> dict[str, list[int]]:
    """Divide frames, of which some have their part already; few new ones all go to the largest part."""
    free = [i for i, part in enumerate(fixed) if part is None]
    if len(free) == len(frames):
        return split_frames(frames, split, by=by, seed=seed, type_map=names)
    parts: dict[str, list[int]] = {name: [] for name, share in split.items() if share > 0}
    for i, part in enumerate(fixed):
        if part is not None:
            parts.setdefault(part, []).append(i)
    new = [frames[i] for i in free]
    if len(set(group_keys(new, by, names))) >= sum(share > 0 for share in split.values()):
        divided = split_frames(new, split, by=by, seed=seed, type_map=names)
    else:
        divided = {max(split, key=lambda name: split[name]): list(range(len(new)))}
    for name, indices in divided.items():
        parts[name] = sorted([*parts.get(name, []), *(free[i] for i in indices)])
    return {name: indices for name, indices in parts.items() if indices}


def _without_near(
    frames: Sequence[Frame],
    names: Sequence[str],
    reports: Sequence[SourceReport],
    near: NearDuplicates | None,
    on_progress: Progress | None,
) -> list[Frame]:
    """Return the frames without near duplicates of earlier ones, which are entered into the reports."""
    for frame in frames:
        check_frame(frame, len(names))
    gone = find_near_duplicates(frames, range(len(frames)), near, progress=on_progress)
    start = 0
    for report in reports:
        mine = range(start, start + report.frames)
        start += report.frames
        kept = [i for i in mine if i not in gone]
        if len(kept) < len(mine):
            report.dropped["near_duplicates"] = len(mine) - len(kept)
        report.frames, report.fields = len(kept), _count_fields(frames[i] for i in kept)
    return [frame for i, frame in enumerate(frames) if i not in gone]


def read_sources(
    sources: Sequence[Source],
    type_map: Sequence[str] | None = None,
    *,
    drop: Sequence[Drop] = (),
    property_name: str = "",
    output: Path | None = None,
    on_progress: Progress | None = None,
) -> tuple[list[Frame], tuple[str, ...], list[SourceReport], Elements]:
    """Read all frames of some sources, none of which may lie in `output`; parameters and errors as in `convert`.

    Returns
    -------
    frames, type_map, reports, elements
        The frames in the order of the sources, with types of the type map.
    """
    if not sources:
        raise DataError("no sources were given, expected at least one file, folder or glob")
    fields_of_property(property_name)  # refuses what is no name
    elements = Elements(type_map)
    problems: list[str] = []
    found: list[list[SourceFile]] = []
    for source in sources:
        try:
            files = find_files(source)
            if output is not None:
                check_apart(output, (file.path for file in files))
        except DataError as error:
            problems.append(str(error))
            files = []
        found.append(files)
    total, done = sum(map(len, found)), 0
    frames: list[Frame] = []
    reports = []
    seen: set[bytes] = set()
    for source, files in zip(sources, found, strict=True):
        report, use = SourceReport(source.path, sorted({file.format for file in files}), len(files)), KeyUse()
        before, broken = len(frames), len(problems)
        for file in files:
            try:
                read = list(read_file(file, elements, use, property_name))
                _check_count(read, file)
                frames += _keep(read, drop, seen, report)
            except DataError as error:
                problems.append(str(error))
            done += 1
            if on_progress is not None:
                on_progress(done, total, file.path)
        if files and len(problems) == broken:
            problems += _unused(source, use)
        report.frames, report.keys = len(frames) - before, use.counts
        report.fields = _count_fields(frames[before:])
        reports.append(report)
    if problems:
        raise DataError(problems[0] if len(problems) == 1 else f"{len(problems)} problems:\n  " + "\n  ".join(problems))
    if not frames:
        raise DataError(
            f"all frames of {', '.join(source.path for source in sources)} were dropped ({', '.join(drop)})"
        )
    if property_name and not any("property" in frame.labels for frame in frames):
        raise DataError(f"no frame has the property {property_name!r}: correct its name, or leave it out")
    names, table = elements.order()
    ordered = [Frame(f.positions, table[f.types], f.cell, f.labels, f.source, f.origin) for f in frames]
    return ordered, names, reports, elements


def _check_count(frames: Sequence[Frame], file: SourceFile) -> None:
    if not frames:
        chosen = f" at index {file.source.index}" if file.source.index is not None else ""
        raise DataError(f"{file.path} has no frames{chosen}, expected at least one of {file.format}")


def _keep(frames: Iterable[Frame], drop: Sequence[Drop], seen: set[bytes], report: SourceReport) -> list[Frame]:
    kept = []
    for frame in frames:
        check_cell(frame.cell, frame.n_atoms, frame.source)
        why = None
        if not any(entry.label and entry.name in frame.labels for entry in FIELDS):
            why = "unlabelled"
            if why not in drop:
                raise DataError(
                    f"{frame.source}: has none of energy, forces and virial: name their keys with `keys`, "
                    "their property with `property`, or leave such frames out with `drop: [unlabelled]`"
                )
        elif "duplicates" in drop or "near_duplicates" in drop:
            key = fingerprint(frame)
            why = "duplicates" if key in seen else None
            seen.add(key)
        if why is None:
            kept.append(frame)
        else:
            report.dropped[why] = report.dropped.get(why, 0) + 1
    return kept


def _unused(source: Source, use: KeyUse) -> list[str]:
    """Return complaints about keys and units that met no frame."""
    problems = []
    for label, key in source.keys.items():
        if key not in use.counts.get("virial" if label == "stress" else label, {}):
            problems.append(f"{source.path}: no frame has {key!r}, which `keys` names for {label}: correct the name")
    for label in source.units:
        if not use.counts.get("virial" if label == "stress" else label):
            problems.append(
                f"{source.path}: no frame has {label}, for which `units` is given: take it out or name its key"
            )
    return problems


def _count_fields(frames: Iterable[Frame]) -> dict[str, int]:
    counts = Counter(name for frame in frames for name in frame.labels)
    return {entry.name: counts[entry.name] for entry in FIELDS if counts[entry.name]}


def _write(
    output: Path,
    parts: Mapping[str, Sequence[int]],
    frames: Sequence[Frame],
    names: Sequence[str],
    report: ConversionReport,
    layout: Layout,
    fields: Sequence[Field],
) -> None:
    form, write = LAYOUTS[layout]
    with new_folder(output, overwrite=True) as folder:
        for name, indices in parts.items():
            write((frames[i] for i in indices), folder / name, names, fields=fields)
        write_json(folder / CARD, {"format": form, "version": 1, **report.to_dict(), "output": output.name})
