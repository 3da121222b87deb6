"""Where frames come from: what a declared source means in files, and which format each of them has."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from dpsim.config import Config
from dpsim.errors import DataError

ASE_FORMATS = frozenset(
    {"extxyz", "quip/gap/xyz", "quip/gap/xyz_file", "mace/xyz", "nequip/xyz", "gpumd/xyz", "ase/traj"}
)
"""Formats read through ASE: dpdata gives up on files in which some frames lack forces."""
FOLDER_FORMATS = frozenset({"deepmd/npy", "deepmd/comp", "deepmd/npy/mixed"})
OWN_FORMATS = FOLDER_FORMATS | {"deepmd/hdf5", "deepmd/lmdb", "lmdb"}
"""Formats read by `dpsim.data`, which keeps labels that only some sets have, and fields dpdata does not know."""


class Source(Config):
    """Files to convert, and how to read them."""

    path: str = Field(min_length=1)
    """A file, a folder or a glob (``**`` goes down into folders)."""
    format: str | None = None
    """Name of a format as dpdata has it, for example ``vasp/outcar``; guessed where that is safe."""
    keys: dict[str, str] = {}
    """For extended XYZ: which key holds energy, forces, stress or virial, for example ``{energy: REF_energy}``."""
    units: dict[str, str] = {}
    """For extended XYZ: what one unit in the file is, for example ``{energy: hartree, stress: -1 kbar}``."""
    index: str | int | None = None
    """Which frames of each file, as in ASE: ``-1``, ``":100"`` or ``"::10"``; all if not given."""
    periodic: bool | None = None
    """Overrides what an extended XYZ file says about boundaries: all periodic (true) or all open (false)."""

    @field_validator("index")
    @classmethod
    def _check_index(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, str) and not re.fullmatch(r"\s*-?\d*\s*(:\s*-?\d*\s*){0,2}", value):
            raise ValueError(f"{value!r} is not an index: write a number or start:stop:step, for example '::10'")
        return value

    def selection(self) -> slice:
        """Return `index` as a slice."""
        if self.index is None:
            return slice(None)
        parts = [int(part) if part.strip() else None for part in str(self.index).split(":")]
        if len(parts) == 1 and parts[0] is not None:
            return slice(parts[0], parts[0] + 1 or None)
        return slice(*parts)


@dataclass(frozen=True)
class SourceFile:
    """One thing to read."""

    path: str
    """File, folder, or the common beginning of several file names, as the format wants it."""
    format: str
    source: Source


@dataclass(frozen=True)
class _FolderFormat:
    """A format whose unit is a folder; `marks` are the globs that must match in it."""

    name: str
    marks: tuple[str, ...]


_FOLDERS = (
    _FolderFormat("deepmd/npy", ("type.raw", "set.*")),
    _FolderFormat("deepmd/lmdb", ("data.mdb",)),
    _FolderFormat("deepmd/raw", ("type.raw", "coord.raw")),
    _FolderFormat("abacus", ("INPUT", "STRU*", "OUT.*")),
    _FolderFormat("cp2k/aimd_output", ("*pos*.xyz", "*.log")),
    _FolderFormat("dftbplus", ("dftb_pin.hsd", "detailed.out")),
)
_ABACUS = {"scf": "abacus/scf", "md": "abacus/md", "relax": "abacus/relax", "cell-relax": "abacus/relax"}
_PREFIXES = {"qe/cp/traj": ".pos", "openmx/md": ".md"}
"""Formats that take the common beginning of several files, and the ending by which it is found."""
_NAMES = (
    ("OUTCAR*", "vasp/outcar"),
    ("vasprun*.xml", "vasp/xml"),
    ("*.extxyz", "extxyz"),
    ("*.xyz", "extxyz"),
    ("*.traj", "ase/traj"),
    ("*.h5", "deepmd/hdf5"),
    ("*.hdf5", "deepmd/hdf5"),
    ("*.fchk", "gaussian/fchk"),
    ("MOVEMENT*", "pwmat/movement"),
)
_CONTENTS = (
    (rb"<modeling>", "vasp/xml"),
    (rb"\A\s*vasp\.\d", "vasp/outcar"),
    (rb"CP2K\||DBCSR\|", "cp2k/output"),
    (rb"Program PWSCF", "qe/pw/scf"),
    (rb"O   R   C   A", "orca/spout"),
    (rb"Psi4: An Open-Source", "psi4/out"),
    (rb"\A\s*begin\s*\n(.*\n)*?\s*lattice ", "n2p2"),
    (rb"atoms,\s*Iteration \(fs\)", "pwmat/movement"),
    (rb"\A\s*\d+\s*\n.*(Properties|Lattice)=", "extxyz"),
    (rb"\nNumber of atoms\s+I\s+\d+\s*\n", "gaussian/fchk"),
    (rb"\A\s*\d+\s*\ntime=.*Energy=.*\(Hartree\)", "openmx/md"),
)
_HINTS = (
    (rb"Entering Gaussian System", ("gaussian/log", "gaussian/md")),
    (rb"Invoking FHI-aims", ("fhi_aims/md", "fhi_aims/scf")),
    (rb"WELCOME TO SIESTA", ("siesta/output", "siesta/aimd_output")),
)
"""Programs whose output has several readers; only the user knows which."""


def find_files(source: Source) -> list[SourceFile]:
    """Return what a source stands for, in natural order.

    Raises
    ------
    DataError
        If nothing matches, a format is unknown or cannot be guessed.
    """
    if source.format is not None:
        check_format(source.format)
    path = os.path.expanduser(source.path)
    if source.format in _PREFIXES:
        return [SourceFile(p, source.format, source) for p in _prefixes(path, _PREFIXES[source.format])]
    if source.format is None and not os.path.exists(path):
        for name, ending in _PREFIXES.items():
            if glob.glob(path + ending, recursive=True):
                return [SourceFile(p, name, source) for p in _prefixes(path, ending)]
    base, mark, group = path.partition("#")  # file.hdf5#group
    matches = sorted(glob.glob(base, recursive=True), key=_natural) if glob.has_magic(base) else [base]
    if not matches or not os.path.exists(matches[0]):
        raise DataError(f"{source.path} matches no file or folder, expected data to convert: check the path")
    found = [file for match in matches for file in _expand(match, source)]
    return [SourceFile(f"{file.path}{mark}{group}", file.format, source) for file in found]


def _prefixes(path: str, ending: str) -> list[str]:
    pattern = path if path.endswith(ending) else path + ending
    found = sorted(glob.glob(pattern, recursive=True), key=_natural)
    if not found:
        raise DataError(f"{path} matches no file, expected the beginning of names that end in {ending}")
    return [name.removesuffix(ending) for name in found]


def _expand(path: str, source: Source) -> Iterator[SourceFile]:
    if not os.path.isdir(path):
        form = source.format or guess_format(Path(path))
        yield SourceFile(path.removesuffix(_PREFIXES.get(form, "")), form, source)
        return
    inside = list(_systems_below(Path(path)))
    wanted = [(folder, name) for folder, name in inside if source.format is None or _same(name, source.format)]
    files = list(_files_below(Path(path), source.format)) if not wanted else []
    if not wanted and not files:
        what = source.format or "a known format"
        raise DataError(
            f"{path} is a folder without files of {what}: name the files with a glob, for example {path}/**/*.out"
        )
    for folder, name in wanted:
        yield SourceFile(str(folder), source.format or name, source)
    for file, name in files:
        yield SourceFile(str(file), name, source)


def _same(found: str, asked: str) -> bool:
    own = found in FOLDER_FORMATS and asked in FOLDER_FORMATS
    lmdb = found == "deepmd/lmdb" and asked == "lmdb"
    return own or lmdb or found == asked or (found.startswith("abacus/") and asked.startswith("abacus/"))


def _systems_below(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders in or below `path` that are data as a whole."""
    for root, folders, _ in os.walk(path):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        for form in _FOLDERS:
            if all(any(Path(root).glob(mark)) for mark in form.marks):
                yield Path(root), _abacus(Path(root)) if form.name == "abacus" else form.name
                folders.clear()
                break


def _abacus(folder: Path) -> str:
    text = (folder / "INPUT").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^\s*calculation\s+(\S+)", text, re.MULTILINE)
    kind = found[1] if found else "scf"
    if kind not in _ABACUS:
        raise DataError(f"{folder}/INPUT: calculation {kind} has no energies to read, expected {', '.join(_ABACUS)}")
    return _ABACUS[kind]


def _files_below(path: Path, asked: str | None) -> Iterator[tuple[Path, str]]:
    """Yield files with a telling name; several formats side by side may be one calculation twice."""
    for root, folders, names in os.walk(path):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        found = {
            name: form for name in sorted(names, key=_natural) if (form := _by_name(name)) and asked in (None, form)
        }
        if len(set(found.values())) > 1:
            raise DataError(
                f"{root} holds {' and '.join(list(found)[:4])} ({', '.join(sorted(set(found.values())))}), "
                "which may be one calculation twice: say which with `format` or a glob"
            )
        for name, form in found.items():
            yield Path(root, name), form


def _by_name(name: str) -> str | None:
    return next((form for pattern, form in _NAMES if Path(name).match(pattern)), None)


def guess_format(path: Path) -> str:
    """Return the format of a file, from its contents or its name.

    Raises
    ------
    DataError
        If neither tells, listing the formats.
    """
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    for pattern, form in _CONTENTS:
        if re.search(pattern, head):
            return form
    for pattern, forms in _HINTS:
        if re.search(pattern, head):
            raise DataError(f"{path}: format is {' or '.join(forms)}, which the file does not tell: give `format`")
    named = _by_name(path.name)
    if named is None:
        raise DataError(f"{path}: format cannot be guessed: give `format`, one of {', '.join(known_formats())}")
    return named


def known_formats() -> list[str]:
    """Return the names of all formats that carry labels."""
    from dpdata.format import Format

    labelled = [name for name, form in Format.get_formats().items() if _has_labels(form)]
    return sorted({*labelled, *ASE_FORMATS, *OWN_FORMATS} - {"list", "auto"})


def _has_labels(form: type) -> bool:
    from dpdata.format import Format

    readers = ("from_labeled_system", "from_labeled_system_mix")
    return any(getattr(form, reader, None) is not getattr(Format, reader, None) for reader in readers)


def check_format(name: str) -> None:
    """Refuse a format that is unknown or carries no labels.

    Raises
    ------
    DataError
        With the nearest names.
    """
    import difflib

    from dpdata.format import Format

    known = known_formats()
    if name in known:
        return
    if name in Format.get_formats():
        raise DataError(f"format {name!r} has structures but no energies or forces, expected one of {', '.join(known)}")
    near = difflib.get_close_matches(name, known, 1)
    raise DataError(
        f"format {name!r} is not known{f', did you mean {near[0]!r}?' if near else ''} Known: {', '.join(known)}"
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
