"""Data files of LAMMPS, with the elements of their atom types given or from their type labels."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_LABELS = "Atom Type Labels"
_SECTION = re.compile(r"^[A-Z][A-Za-z /]*$")


def type_labels(path: str | Path) -> tuple[str, ...]:
    """Labels of type 1, 2, … of a data file; empty if it has none or is no data file."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            head = [line for _, line in zip(range(2000), file, strict=False)]
    except (OSError, UnicodeDecodeError):
        return ()
    names: dict[int, str] = {}
    inside = False
    for line in head:
        words = line.partition("#")[0].split()
        if " ".join(words) == _LABELS:
            inside = True
        elif inside and len(words) == 2 and words[0].isdigit():
            names[int(words[0])] = words[1]
        elif inside and words:
            break
    return tuple(names[number] for number in sorted(names))


def read_lammps_data(path: str | Path, types: Sequence[str] = ()) -> Atoms:
    """Read a data file in units ``metal``, with its velocities.

    Parameters
    ----------
    types
        Element of each atom type; if not given, the type labels, which then must be elements.

    Raises
    ------
    DataError
        If the elements are not known, or the file cannot be read.
    """
    from ase.data import atomic_numbers
    from ase.io import read

    labels = type_labels(path)
    elements = tuple(types) or labels
    if wrong := [name for name in elements if name not in atomic_numbers or name == "X"]:
        raise DataError(f"{path}: the type label {wrong[0]!r} is no element: give types, the element of each atom type")
    if not elements:
        raise DataError(f"{path} has no type labels: give types, the element of each atom type, such as [O, H]")
    text = _with_numbers(Path(path).read_text(encoding="utf-8"), labels)
    options = {"format": "lammps-data", "Z_of_type": {i: atomic_numbers[name] for i, name in enumerate(elements, 1)}}
    atoms: Atoms
    try:
        atoms = read(io.StringIO(text), **options)
    except RuntimeError:  # the comment after "Atoms", which ASE takes for the style, may say something else
        atoms = read(io.StringIO(text), atom_style="atomic", **options)
    atoms.info.clear()
    for name in ("id", "type"):
        atoms.arrays.pop(name, None)
    return atoms


def _with_numbers(text: str, labels: Sequence[str]) -> str:
    """The text with types by number instead of label, and without the labels, which ASE does not know."""
    if not labels:
        return text
    numbers = {label: str(number) for number, label in enumerate(labels, 1)}
    lines, section = [], ""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and _SECTION.match(" ".join(words)):
            section = " ".join(words)
        if section == _LABELS:
            continue
        # In styles with molecules, the number of the molecule stands before the type.
        for place in {"Masses": (0,), "Atoms": (1, 2)}.get(section, ()):
            if len(words) > place + 1 and words[place] in numbers:
                words[place] = numbers[words[place]]
                line = " ".join(words)
                break
        lines.append(line)
    return "\n".join(lines) + "\n"
