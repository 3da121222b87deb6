"""Writing frames as an LMDB of DeePMD-kit, in the form that `dpsim.data.lmdb` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.data.files import CARD, new_folder, write_json
from dpsim.data.frame import Frame, check_frame
from dpsim.data.lmdb import DATA, LMDB, METADATA, SHORT, package
from dpsim.data.write import group_of, without_placeholders
from dpsim.errors import DataError
from dpsim.fields import FIELDS, Field

_KEY = "012d"
"""Form of the number under which a frame is found."""
_LONG = {short: long for long, short in SHORT.items()}
_LARGEST = 1 << 40
"""Bytes that the file may grow to; what is not written takes no room."""
_AT_ONCE = 1000
"""Frames of a transaction."""


def write_lmdb(
    frames: Iterable[Frame],
    output: str | Path,
    type_map: Sequence[str],
    *,
    overwrite: bool = False,
    fields: Sequence[Field] = FIELDS,
) -> list[Path]:
    """Write frames of any size and composition as one LMDB, whole or not at all.

    Frames with the same number of atoms, boundaries and labels are one system, as in `dpsim.data.write.write_mixed`.

    Parameters
    ----------
    frames
        Their `types` refer to `type_map`; placeholders are not written.
    output
        Folder that is made.
    type_map
        Chemical symbols.
    overwrite
        Whether a data set that is there is replaced.
    fields
        What is written where it is there, and under which names.

    Returns
    -------
    list of Path
        The folder.

    Raises
    ------
    DataError
        If a frame is malformed, there is none, or `output` exists.
    SetupError
        If the packages that write it are missing.
    """
    output = Path(output)
    lmdb, msgpack = package("lmdb", output), package("msgpack", output)
    systems: dict[Any, int] = {}
    ids, sizes = [], []
    with new_folder(output, overwrite=overwrite) as folder:
        # without a lock file: nobody else knows the folder yet, and readers take none
        with lmdb.open(str(folder), map_size=_LARGEST, lock=False, sync=False) as environment:
            transaction = environment.begin(write=True)
            for number, frame in enumerate(frames):
                check_frame(frame, len(type_map))
                frame = without_placeholders(frame)
                ids.append(systems.setdefault(group_of(frame, fields), len(systems)))
                sizes.append(frame.n_atoms)
                transaction.put(format(number, _KEY).encode(), msgpack.packb(_record(frame, fields)))
                if number % _AT_ONCE == _AT_ONCE - 1:
                    transaction.commit()
                    transaction = environment.begin(write=True)
            about = {
                "nframes": len(ids), "type_map": list(type_map), "frame_idx_fmt": _KEY, "frame_nlocs": sizes,
                "frame_system_ids": ids, "system_info": {"natoms": [0] * len(type_map)},
            }  # fmt: skip
            transaction.put(METADATA, msgpack.packb(about))
            transaction.commit()
            environment.sync(True)
        if not ids:
            raise DataError(f"{output} was not written: there are no frames")
        assert (folder / DATA).is_file()
        write_json(folder / CARD, {"format": LMDB, "version": 1, "type_map": list(type_map), "frames": len(ids)})
    return [output]


def _record(frame: Frame, fields: Sequence[Field]) -> dict[str, Any]:
    """Entries of a frame; one with open boundaries has no cell."""
    arrays = {"coord": frame.positions, "atype": frame.types.astype(np.int32)}
    if frame.cell is not None:
        arrays["box"] = frame.cell
    arrays |= {entry.file: frame.labels[entry.name] for entry in fields if entry.name in frame.labels}
    return {_LONG.get(name, name): _packed(value) for name, value in arrays.items()}


def _packed(value: np.ndarray) -> dict[str, Any]:
    array = np.ascontiguousarray(value if value.dtype.kind == "i" else np.asarray(value, dtype=np.float64))
    return {"type": array.dtype.str, "shape": list(np.shape(value)), "data": array.tobytes()}
