"""Writing frames as ``deepmd/npy/mixed`` (one folder for each number of atoms) or ``deepmd/npy``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dpsim.data.files import CARD, new_folder, write_json
from dpsim.data.frame import Frame, check_frame
from dpsim.data.npy import MIXED, PLAIN
from dpsim.errors import DataError
from dpsim.fields import BY_NAME, FIELDS, Field

_Key = tuple[object, ...]


def write_mixed(
    frames: Iterable[Frame],
    output: str | Path,
    type_map: Sequence[str],
    *,
    set_size: int | None = None,
    overwrite: bool = False,
    fields: Sequence[Field] = FIELDS,
) -> list[Path]:
    """Write frames of any size and composition as ``deepmd/npy/mixed``.

    Frames with the same number of atoms, boundaries and labels share a folder, because that is what the
    layout can express; folders are named by the number of atoms, and further where that is not enough.

    Parameters
    ----------
    frames
        Their `types` refer to `type_map`; placeholders are not written.
    output
        Folder that is made, whole or not at all.
    type_map
        Chemical symbols.
    set_size
        Largest number of frames in a ``set.*``; None puts all frames of a system into one.
    overwrite
        Whether a data set that is there is replaced.
    fields
        What is written where it is there, and under which names.

    Returns
    -------
    list of Path
        The system folders.

    Raises
    ------
    DataError
        If a frame is malformed, there is none, or `output` exists.
    """
    return _write(frames, output, type_map, True, set_size, overwrite, fields)


def write_npy(
    frames: Iterable[Frame],
    output: str | Path,
    type_map: Sequence[str],
    *,
    set_size: int | None = None,
    overwrite: bool = False,
    fields: Sequence[Field] = FIELDS,
) -> list[Path]:
    """Write frames as plain ``deepmd/npy``: one folder for each sequence of types, named by its formula.

    Parameters, result and errors as in `write_mixed`.
    """
    return _write(frames, output, type_map, False, set_size, overwrite, fields)


def _write(
    frames: Iterable[Frame],
    output: str | Path,
    type_map: Sequence[str],
    mixed: bool,
    size: int | None,
    overwrite: bool,
    fields: Sequence[Field],
) -> list[Path]:
    if size is not None and size < 1:
        raise DataError(f"set_size is {size}, expected at least one frame in a set")
    groups: dict[_Key, list[Frame]] = {}
    for frame in frames:
        check_frame(frame, len(type_map))
        frame = without_placeholders(frame)
        groups.setdefault(group_of(frame, fields) if mixed else _plain_key(frame, fields), []).append(frame)
    if not groups:
        raise DataError(f"{output} was not written: there are no frames")
    names = _names(groups, (lambda f: str(f.n_atoms)) if mixed else (lambda f: f.formula(type_map)))
    output = Path(output)
    with new_folder(output, overwrite=overwrite) as folder:
        for key, name in names.items():
            write_system(folder / name, groups[key], type_map, mixed=mixed, set_size=size, fields=fields)
    return [output / name for name in names.values()]


def without_placeholders(frame: Frame) -> Frame:
    """Return the frame with atoms of type -1 taken out."""
    real = frame.types >= 0
    if real.all():
        return frame
    labels = {name: BY_NAME[name].of_atoms(value, real) for name, value in frame.labels.items()}
    return Frame(frame.positions[real], frame.types[real], frame.cell, labels, frame.source, frame.origin)


def _shapes(frame: Frame, fields: Sequence[Field]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((entry.name, frame.labels[entry.name].shape) for entry in fields if entry.name in frame.labels)


def group_of(frame: Frame, fields: Sequence[Field] = FIELDS) -> _Key:
    """Return what frames of one mixed system have in common: number of atoms, boundaries and labels."""
    return (frame.n_atoms, frame.cell is not None, _shapes(frame, fields))


def _plain_key(frame: Frame, fields: Sequence[Field]) -> _Key:
    return (frame.types.tobytes(), frame.cell is not None, _shapes(frame, fields))


def _names(groups: dict[_Key, list[Frame]], name: Callable[[Frame], str]) -> dict[_Key, str]:
    """Return a folder name for each group: the plain one where it is alone, else with labels and boundaries."""
    plain = {key: name(members[0]) for key, members in groups.items()}
    taken: set[str] = set()
    result = {}
    for key, base in plain.items():
        if list(plain.values()).count(base) > 1:
            first = groups[key][0]
            base = "-".join([base, *first.labels] + (["open"] if first.cell is None else []))
        numbered = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        result[key] = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(result[key])
    return result


def write_system(
    folder: Path,
    frames: Sequence[Frame],
    type_map: Sequence[str],
    *,
    mixed: bool,
    set_size: int | None = None,
    fields: Sequence[Field] = FIELDS,
) -> None:
    """Write one system folder; the frames share number of atoms, boundaries and labels, and types unless `mixed`."""
    first = frames[0]
    folder.mkdir(parents=True)
    types = np.zeros(first.n_atoms, np.int64) if mixed else first.types
    (folder / "type.raw").write_text("".join(f"{t}\n" for t in types), encoding="utf-8")
    (folder / "type_map.raw").write_text("".join(f"{name}\n" for name in type_map), encoding="utf-8")
    if first.cell is None:
        (folder / "nopbc").touch()
    size = set_size or len(frames)
    digits = max(3, len(str((len(frames) - 1) // size)))
    for number, start in enumerate(range(0, len(frames), size)):
        _write_set(folder / f"set.{number:0{digits}d}", frames[start : start + size], mixed, fields)
    write_json(folder / CARD, _card(frames, type_map, mixed, fields))


def _write_set(folder: Path, frames: Sequence[Frame], mixed: bool, fields: Sequence[Field]) -> None:
    folder.mkdir()
    _save(folder / "coord.npy", [frame.positions for frame in frames])
    if frames[0].cell is not None:
        _save(folder / "box.npy", [frame.cell for frame in frames if frame.cell is not None])
    if mixed:
        np.save(folder / "real_atom_types.npy", np.stack([frame.types for frame in frames]).astype(np.int64))
    for entry in fields:
        if entry.name in frames[0].labels:
            _save(folder / f"{entry.file}.npy", [frame.labels[entry.name] for frame in frames], flat=entry.shape != ())


def _save(path: Path, rows: Sequence[np.ndarray], flat: bool = True) -> None:
    table = np.stack(rows).astype(np.float64)
    np.save(path, table.reshape(len(rows), -1) if flat else table)


def _card(frames: Sequence[Frame], type_map: Sequence[str], mixed: bool, fields: Sequence[Field]) -> dict[str, object]:
    origins = [(origin, len(list(run))) for origin, run in itertools.groupby(frame.origin for frame in frames)]
    return {
        "format": MIXED if mixed else PLAIN,
        "version": 1,
        "type_map": list(type_map),
        "frames": len(frames),
        "atoms": frames[0].n_atoms,
        "periodic": frames[0].cell is not None,
        "fields": [entry.name for entry in fields if entry.name in frames[0].labels],
        "origins": origins if any(origin for origin, _ in origins) else [],
    }
