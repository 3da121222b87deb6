"""A data set without the frames that something is wrong with, and an account of what was taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.inspect import InspectionReport, inspect_dataset, open_parts
from data_tools.layouts import LAYOUTS, Layout
from dpsim.data import Dataset
from dpsim.data.files import CARD, check_apart, check_output, new_folder, write_json
from dpsim.errors import DataError
from dpsim.fields import fields_of_property

__all__ = ["clean_dataset", "write_kept"]


def clean_dataset(
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset],
    output: str | Path,
    drop: Sequence[str],
    *,
    layout: Layout = "mixed",
    overwrite: bool = False,
    property_name: str = "",
    **options: Any,
) -> InspectionReport:
    """Inspect a data set and write it without the frames that have one of some flaws.

    Parameters
    ----------
    data
        As in `inspect_dataset`; parts stay parts.
    output
        Folder that is made, whole or not at all.
    drop
        Flaws for which frames are taken out, see `data_tools.clean_config.Removable`.
    layout, overwrite, property_name
        As in `data_tools.convert.convert`.
    options
        Others of `inspect_dataset`.

    Returns
    -------
    InspectionReport
        With what was taken out, by flaw.

    Raises
    ------
    DataError
        If the data cannot be read, a part would have no frame left, or `output` may not be replaced.
    """
    check_output(Path(output), overwrite=overwrite)
    parts = open_parts(data, property_name)
    check_apart(Path(output), (system.path for part in parts.values() for system in part.systems))
    report = inspect_dataset(parts, drop=drop, **options)
    write_kept(parts, report, output, layout=layout, property_name=property_name)
    return report


def write_kept(
    parts: Mapping[str, Dataset],
    report: InspectionReport,
    output: str | Path,
    *,
    layout: Layout = "mixed",
    property_name: str = "",
) -> None:
    """Write the frames that an inspection leaves, in the parts they are in; a data set that is there is replaced.

    Raises
    ------
    DataError
        If a part would have no frame left, a frame that is left cannot be written, or `output` is no data set.
    """
    form, write = LAYOUTS[layout]
    fields = fields_of_property(property_name)
    empty = [part for part, rows in report.kept.items() if not rows]
    if empty:
        what = ", ".join(f"{count} as {flaw}" for flaw, count in report.counts_removed().items() if count)
        of = f"of part {empty[0]!r}" if empty[0] else "of the data set"
        raise DataError(f"no frame {of} is left ({what} were taken out in all): take flaws out of 'drop'")
    names = next(iter(parts.values())).type_map
    card = {
        "format": form,
        "version": 1,
        "type_map": list(names),
        "frames": sum(map(len, report.kept.values())),
        "parts": {part or ".": len(rows) for part, rows in report.kept.items()},
        "removed": report.counts_removed(),
    }
    with new_folder(Path(output), overwrite=True) as folder:
        for part, rows in report.kept.items():
            frames = (parts[part][i] for i in rows)
            write(frames, folder / part, names, fields=fields)
        write_json(folder / CARD, card)
