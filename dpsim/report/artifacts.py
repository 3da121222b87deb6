"""Reading what the stages left: JSON, columns of numbers, arrays; no file is None, a damaged one is an error."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsim.data.files import read_json
from dpsim.errors import DataError

Array = NDArray[np.float64]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no file.

    Raises
    ------
    DataError
        If the file is not a JSON object.
    """
    return read_json(path) if path.exists() else {}


def read_rows(path: Path) -> list[dict[str, str]] | None:
    """Read a CSV file with a header, as text; None if there is no file.

    Raises
    ------
    DataError
        If a row has not as many fields as the header.
    """
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=None))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path}:{line} has not as many fields as the header: the file is damaged")
    return rows


def read_columns(path: Path) -> dict[str, Array] | None:
    """Read the columns of a CSV file; an empty field is NaN, a column of words is left out; None without a file."""
    rows = read_rows(path)
    if rows is None:
        return None
    columns: dict[str, Array] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = np.array([float(row[name]) if row[name] else np.nan for row in rows])
        except ValueError:
            continue
    return columns


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read an ``.npz`` file; None if there is no file.

    Raises
    ------
    DataError
        If the file is no such archive, or holds objects.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as arrays: {error}") from None
