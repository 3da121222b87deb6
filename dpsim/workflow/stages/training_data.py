"""Data of a training: systems are trained on where they lie, everything else is converted first, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from data_tools.sources import OWN_FORMATS
from data_tools.sources import Source as FileSource
from dpsim.errors import DataError
from dpsim.workflow.records.digest import canonical_json, digest_bytes
from dpsim.workflow.records.files import full_path
from dpsim.workflow.stage import Reference, Stage, dotted
from dpsim.workflow.stages.convert import SourceFiles

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

log = logging.getLogger("dpsim.workflow")


class DataFiles(SourceFiles):
    """Files or folders with labelled frames.

    Folders of systems (``deepmd/npy``, also mixed), HDF5 files and groups of them (``file.hdf5#/group``) and LMDB are
    trained on as they are, and may be larger than memory; folders are searched for systems. Any other format, for
    example extended XYZ or ``{path: "aimd/**/OUTCAR", format: vasp/outcar}``, is converted first.
    """

    match: tuple[str, ...] = ()
    """Of the systems found below `path`, only those whose path ends in what matches one of these patterns."""

    @model_validator(mode="after")
    def _check(self) -> DataFiles:
        if self.match and not self.as_they_are:
            raise ValueError("match chooses systems in folders, HDF5 or LMDB; here a pattern in path chooses the files")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not asked for: cache keys stay when options are added."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in handler(self).items()
            if key == "path" or getattr(self, key) != fields[key].default
        }

    @property
    def as_they_are(self) -> bool:
        """Whether nothing is asked for that needs a conversion."""
        asked = self.keys or self.units or self.index is not None or self.periodic is not None
        return not asked and (self.format is None or self.format in OWN_FORMATS)


DataInputs = Reference | DataFiles | list[Reference | DataFiles]


def paths_of_slot(stage: Stage, context: Context, slot: str, *where: str) -> list[Path]:
    """Return what an input of a running stage is trained or tested on; errors as in `data_paths`.

    Parameters
    ----------
    where
        Keys of the stage below which the input is declared; without any, all of the slot are meant.
    """
    declared = {dotted(source.path): source.value for source in stage.sources() if source.path[: len(where)] == where}
    found: list[Path] = []
    for artifact in context.inputs.get(slot, ()):
        if where and artifact.place not in declared:
            continue
        files = declared.get(artifact.place)
        if isinstance(files, DataFiles):
            found += data_paths(files, context.base, artifact.paths, context.work / "data", context.type_map)
        else:
            found += artifact.paths
    return found


def data_paths(
    files: DataFiles, base: Path, matches: Sequence[Path], folder: Path, type_map: Sequence[str] | None
) -> list[Path]:
    """Return what to train on.

    Parameters
    ----------
    base
        Folder to which the path is relative.
    matches
        Files and folders that the path stands for.
    folder
        Where converted data are kept; they are used again if neither files nor settings changed.
    type_map
        Symbols in the order wanted; None takes those that occur.

    Returns
    -------
    list of Path
        Folders with systems in or below them, HDF5 files, groups ``file.hdf5#/group``, and folders of LMDB.

    Raises
    ------
    DataError
        If there is no system, or something cannot be converted.
    """
    from dpsim.data.locate import find_all

    if not (files.as_they_are and _hold_systems(files, matches)):
        _refuse_folders_without_data(files, base, matches)
        return [_converted(files, base, matches, folder, type_map)]
    if files.match:
        return [one.path for one in find_all([full_path(base, files.path)], files.match)]
    _, mark, group = files.path.partition("#")
    return [Path(f"{path}{mark}{group}") if mark and not path.is_dir() else path for path in _holders(matches)]


def _hold_systems(files: DataFiles, matches: Sequence[Path]) -> bool:
    """Whether the matches are, or contain, systems that need no conversion."""
    from dpsim.data.locate import holds_systems

    holders = _holders(matches)
    if files.format is not None or files.match:
        return bool(holders)
    return any(holds_systems(path) for path in holders)


def _refuse_folders_without_data(files: DataFiles, base: Path, matches: Sequence[Path]) -> None:
    """Say what is expected of folders that hold neither systems nor files to convert."""
    from data_tools.sources import find_files
    from dpsim.data.locate import find_all

    if files.format is None and all(path.is_dir() for path in matches):
        try:
            find_files(FileSource(path=str(full_path(base, files.path))))
        except DataError:
            find_all(matches)
            raise


def _holders(matches: Sequence[Path]) -> list[Path]:
    from dpsim.data.locate import may_hold

    return [path for path in matches if may_hold(path)]


def _converted(
    files: DataFiles, base: Path, matches: Sequence[Path], folder: Path, type_map: Sequence[str] | None
) -> Path:
    from data_tools.convert import convert

    settings = files.model_dump(mode="json", exclude={"match"})
    marks = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _all_files(matches)]
    key = digest_bytes(canonical_json({"source": settings, "files": marks, "type_map": list(type_map or ())}))
    output = folder / f"converted-{key[:12]}"
    if output.is_dir():
        log.info("%s was converted before: %s", files.path, output)
        return output
    source = FileSource.model_validate(settings | {"path": str(full_path(base, files.path))})
    report = convert([source], output, type_map=type_map or None)
    log.info("%s is converted to %s\n%s", files.path, output, report.table())
    return output


def _all_files(matches: Sequence[Path]) -> list[Path]:
    inside = [path for match in matches if match.is_dir() for path in sorted(match.rglob("*"))]
    return [path for path in [*matches, *inside] if path.is_file()]
