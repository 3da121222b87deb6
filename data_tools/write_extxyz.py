"""Writing frames as extended XYZ, with labels under the keys that other programs look for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpsim.data.files import CARD, new_folder, write_json
from dpsim.data.frame import Frame, check_frame
from dpsim.data.write import without_placeholders
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field

if TYPE_CHECKING:
    from ase import Atoms

EXTXYZ = "extxyz"
FILE = "frames.extxyz"
"""In the folder that is made."""


def write_extxyz(
    frames: Iterable[Frame],
    output: str | Path,
    type_map: Sequence[str],
    *,
    overwrite: bool = False,
    fields: Sequence[Field] = FIELDS,
) -> list[Path]:
    """Write frames of any size and composition into one file of extended XYZ, in a folder of its own.

    Energy and forces have the keys ``REF_energy`` and ``REF_forces``; a virial becomes ``REF_stress`` (9 numbers,
    eV/Å³, tensile positive). Other fields have the names of their arrays. Parameters are those of
    `dpsim.data.write.write_mixed`.

    Raises
    ------
    DataError
        If a frame is malformed, has a field that the format cannot hold, there is none, or `output` exists.
    """
    from ase.io import write

    output = Path(output)
    written = 0
    with new_folder(output, overwrite=overwrite) as folder, (folder / FILE).open("w", encoding="utf-8") as file:
        for frame in frames:
            check_frame(frame, len(type_map))
            write(file, _atoms(without_placeholders(frame), type_map, fields), format="extxyz", write_results=False)
            written += 1
        if not written:
            raise DataError(f"{output} was not written: there are no frames")
        write_json(folder / CARD, {"format": EXTXYZ, "version": 1, "type_map": list(type_map), "frames": written})
    return [output]


def _atoms(frame: Frame, type_map: Sequence[str], fields: Sequence[Field]) -> Atoms:
    """Return a frame as a structure of ASE."""
    from ase import Atoms

    periodic = frame.cell is not None
    symbols = [type_map[kind] for kind in frame.types]
    try:
        atoms = Atoms(symbols, frame.positions, cell=frame.cell, pbc=periodic)
    except KeyError as error:
        raise DataError(f"{frame.source}: {error.args[0]!r} is no element, which extended XYZ needs") from None
    if frame.origin:
        atoms.info["source"] = frame.origin
    for entry in (one for one in fields if one.name in frame.labels):
        value = np.asarray(frame.labels[entry.name], dtype=float)
        if entry.kind == "pair":
            raise DataError(f"{frame.source}: extended XYZ cannot hold {entry.name}: choose another format")
        if entry.kind == "atom":
            rows = value.reshape(frame.n_atoms, -1)
            atoms.set_array(entry.extxyz or entry.file, rows[:, 0] if rows.shape[1] == 1 else rows)
        elif entry.name == "virial":
            if not periodic:
                raise DataError(f"{frame.source}: a virial without a cell has no stress: choose another format")
            atoms.info["REF_stress"] = -value / frame.volume
        else:
            atoms.info[entry.extxyz or entry.file] = float(value) if value.ndim == 0 else value.reshape(-1)
    return atoms
