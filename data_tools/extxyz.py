"""Labels in extended XYZ and ASE trajectories: which key holds which, in which unit, with which sign.

ASE moves plain ``energy``, ``forces`` and ``stress`` into a calculator and leaves ``REF_energy`` and others in
``info`` and ``arrays``; both places are searched. A stress counts as tensile positive, as in ASE:
``virial = -volume * stress``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dpsim.data.frame import Frame, check_finite
from dpsim.errors import DataError, DpsimError
from dpsim.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE, GPA_PER_EV_A3, KCAL_PER_MOL_PER_EV

if TYPE_CHECKING:
    from ase import Atoms

    from data_tools.sources import SourceFile

_PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
_STEMS: Final = {
    "energy": ("energy", "Energy", "free_energy", "total_energy", "TotEnergy"),
    "forces": ("forces", "force", "Forces", "Force"),
    "stress": ("stress", "stresses", "Stress"),
    "virial": ("virial", "virials", "Virial"),
}
CANDIDATES: Final = {name: tuple(p + stem for stem in stems for p in _PREFIXES) for name, stems in _STEMS.items()}
"""Keys under which each label is looked for when the user names none."""

_ENERGIES: Final = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": EV_PER_HARTREE,
    "ha": EV_PER_HARTREE,
    "au": EV_PER_HARTREE,
    "a.u.": EV_PER_HARTREE,
    "ry": EV_PER_HARTREE / 2,
    "rydberg": EV_PER_HARTREE / 2,
    "kcal/mol": 1 / KCAL_PER_MOL_PER_EV,
    "kj/mol": 1 / (KCAL_PER_MOL_PER_EV * 4.184),
}
_LENGTHS: Final = {"angstrom": 1.0, "ang": 1.0, "å": 1.0, "a": 1.0, "bohr": ANGSTROM_PER_BOHR, "nm": 10.0}
_PRESSURES: Final = {"gpa": 1.0, "mpa": 1e-3, "kpa": 1e-6, "pa": 1e-9, "kbar": 0.1, "bar": 1e-4}
_ATOMIC: Final = {"forces": "hartree/bohr", "stress": "hartree/bohr^3"}
_SHOWN: Final = {
    "energy": "eV, hartree, Ry, kcal/mol, kJ/mol",
    "forces": "eV/angstrom, hartree/bohr, Ry/bohr, kcal/mol/angstrom",
    "stress": "eV/angstrom^3, GPa, kbar, bar, hartree/bohr^3",
    "virial": "eV, hartree, Ry, kcal/mol, kJ/mol",
}


def unit_factor(label: str, text: str) -> float:
    """Return the factor from a unit such as ``kcal/mol/angstrom`` or ``-1 kbar`` to eV, eV/Å or eV/Å³.

    Raises
    ------
    DataError
        If the unit does not fit the label.
    """
    match = re.fullmatch(r"\s*([-+]?\d*\.?\d*(?:[eE][-+]?\d+)?)\s*(\S.*?)\s*", text)
    number, unit = (match[1], match[2].lower().replace("³", "^3").replace("å3", "å^3")) if match else ("", text)
    if unit in ("au", "a.u."):
        unit = _ATOMIC.get(label, unit)
    if label in ("energy", "virial"):
        factor = _ENERGIES.get(unit)
    elif label == "stress" and unit in _PRESSURES:
        factor = _PRESSURES[unit] / GPA_PER_EV_A3
    else:
        energy, _, length = unit.rpartition("/")
        power = 3 if label == "stress" else 1
        size = _LENGTHS.get(length.removesuffix("^3") if power == 3 and length.endswith("^3") else length)
        known = energy in _ENERGIES and size is not None and (power == 1) == (not length.endswith("^3"))
        factor = _ENERGIES[energy] / size**power if known and size is not None else None
    if factor is None:
        raise DataError(f"unit {text!r} of {label} is not known, expected one of {_SHOWN[label]}")
    return factor * (float(number) if number not in ("", "-", "+") else float(number + "1"))


@dataclass
class KeyUse:
    """How often each label was found under which key."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, label: str, key: str) -> None:
        """Count one frame."""
        row = self.counts.setdefault(label, {})
        row[key] = row.get(key, 0) + 1


def read(file: SourceFile, type_index: Any, use: KeyUse, property_name: str = "") -> Iterator[Frame]:
    """Yield the frames of an extended XYZ file or ASE trajectory.

    Parameters
    ----------
    file
        The file and how its source describes it.
    type_index
        Function from chemical symbols, name of the frame to ``(n_atoms,)`` types.
    use
        Counts the keys that were used.
    property_name
        Key of a property of frames, which is read as well.

    Raises
    ------
    DataError
        If the file cannot be read, keys are ambiguous or missing, or a value is malformed.
    """
    from ase.io import iread

    source = file.source
    for name in [*source.keys, *source.units]:
        if name not in CANDIDATES:
            raise DataError(
                f"{source.path}: {name!r} is not a label, expected {', '.join(CANDIDATES)} in `keys` and `units`"
            )
    index = source.selection()
    forward = (index.step or 1) > 0 and (index.start or 0) >= 0
    try:
        if file.format == "ase/traj":
            images = iread(file.path, index=index, format="traj", parallel=False)
        else:
            images = iread(file.path, index=index, format="extxyz", parallel=False, properties_parser=_parse_header)
        number = 0
        for number, atoms in enumerate(images):
            place = (index.start or 0) + number * (index.step or 1) if forward else number
            where = f"{file.path}#{place}"
            yield _frame(atoms, file, where, type_index, use, property_name)
    except DpsimError:
        raise
    except Exception as error:  # ASE raises whatever its parsers meet
        raise DataError(
            f"{file.path} cannot be read as {file.format} (after {number} frames): {_short(error)}"
        ) from error


_SIX_NUMBERS = re.compile(r"(?<![\w-])(stress|virial)=\"\s*((?:[^\s\"]+\s+){5}[^\s\"]+)\s*\"")


def _parse_header(line: str) -> dict[str, Any]:
    """Parse the comment line with ASE, which takes no stress of six numbers (xx yy zz yz xz xy) under that name."""
    from ase.io.extxyz import key_val_str_to_dict

    def nine(match: re.Match[str]) -> str:
        xx, yy, zz, yz, xz, xy = match[2].split()
        return f'{match[1]}="{xx} {xy} {xz} {xy} {yy} {yz} {xz} {yz} {zz}"'

    return key_val_str_to_dict(_SIX_NUMBERS.sub(nine, line))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")


def _frame(atoms: Atoms, file: SourceFile, where: str, type_index: Any, use: KeyUse, property_name: str) -> Frame:
    cell = _cell(atoms, file.source.periodic, where)
    types = type_index(atoms.get_chemical_symbols(), where)
    values = _values(atoms)
    labels: dict[str, np.ndarray] = {}
    for label in CANDIDATES:
        key = _choose(label, values, file.source.keys, where)
        if key is None or (label == "virial" and "virial" in labels and "virial" not in file.source.keys):
            continue
        value = values[key] * _factor(label, values, atoms.info, file.source.units, where)
        name = "virial" if label == "stress" else label
        labels[name] = _shaped(label, value, len(atoms), cell, where, key)
        check_finite(labels[name], name, where)
        use.add(name, key)
    if property_name in values and property_name not in atoms.arrays:
        labels["property"] = values[property_name].ravel()
        check_finite(labels["property"], property_name, where)
        use.add("property", property_name)
    origin = atoms.info.get("source")
    return Frame(
        np.asarray(atoms.positions, np.float64), types, cell, labels, where, str(origin) if origin else file.path
    )


def _cell(atoms: Atoms, periodic: bool | None, where: str) -> np.ndarray | None:
    if periodic is None and bool(atoms.pbc.any()) != bool(atoms.pbc.all()):
        flags = " ".join("FT"[int(flag)] for flag in atoms.pbc)
        raise DataError(
            f"{where}: pbc is {flags}, expected all T or all F: "
            "set `periodic` true (with a vacuum in the cell) or false"
        )
    if not (atoms.pbc.all() if periodic is None else periodic):
        return None
    if not np.asarray(atoms.cell).any():
        raise DataError(f"{where}: there is no Lattice but the frame counts as periodic: set `periodic` false")
    return np.asarray(atoms.cell, np.float64).copy()


def _values(atoms: Atoms) -> dict[str, np.ndarray]:
    """Return everything numeric by its key, from the three places in which ASE keeps it."""
    results = atoms.calc.results if atoms.calc is not None else {}
    merged: dict[str, Any] = {**results, **atoms.arrays, **atoms.info}
    values = {}
    for key, value in merged.items():
        array = np.asarray(value)
        if array.dtype.kind in "fiu":
            values[key] = array.astype(np.float64)
    return values


def _choose(label: str, values: Mapping[str, np.ndarray], keys: Mapping[str, str], where: str) -> str | None:
    if label in keys:
        return keys[label] if keys[label] in values else None
    if label == "virial" and "stress" in keys:
        return None
    if label == "stress" and ("virial" in keys or any(key in values for key in CANDIDATES["virial"])):
        return None  # a virial needs no volume and no sign
    found = [key for key in CANDIDATES[label] if key in values and _plausible(label, values[key])]
    different = [
        k
        for k in found[1:]
        if values[k].shape != values[found[0]].shape or not np.allclose(values[k], values[found[0]], 1e-9, 1e-9)
    ]
    if different:
        raise DataError(
            f"{where}: {label} may be {' or '.join([found[0], *different])}, which differ: "
            f"choose with `keys: {{{label}: {found[0]}}}`"
        )
    return found[0] if found else None


def _plausible(label: str, value: np.ndarray) -> bool:
    sizes = {"energy": value.size == 1, "forces": value.ndim == 2 and value.shape[1] == 3}
    return sizes.get(label, value.size in (6, 9) and value.ndim <= 2)


def _factor(
    label: str, values: Mapping[str, np.ndarray], info: Mapping[str, Any], units: Mapping[str, str], where: str
) -> float:
    text = units.get(label)
    if text is None:
        name = {"forces": "force", "virial": "virial"}.get(label, label)
        stated = [info[f"{name}{mark}unit"] for mark in "-_" if f"{name}{mark}unit" in info]
        if label == "virial" and not stated:
            stated = [info[f"energy{mark}unit"] for mark in "-_" if f"energy{mark}unit" in info]
        text = str(stated[0]) if stated else None
    if text is None:
        return 1.0
    try:
        return unit_factor(label, text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _shaped(label: str, value: np.ndarray, n_atoms: int, cell: np.ndarray | None, where: str, key: str) -> np.ndarray:
    if label == "energy":
        if value.size != 1:
            raise DataError(f"{where}: {key} has {value.size} numbers, expected one energy")
        return value.reshape(())
    if label == "forces":
        if value.shape != (n_atoms, 3):
            raise DataError(f"{where}: {key} has shape {value.shape}, expected ({n_atoms}, 3): one force for each atom")
        return value
    if value.size == 6:
        xx, yy, zz, yz, xz, xy = value.ravel()
        tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    elif value.size == 9:
        tensor = value.reshape(3, 3)
    else:
        raise DataError(f"{where}: {key} has {value.size} numbers, expected 9, or 6 in the order xx yy zz yz xz xy")
    if label == "virial":
        return tensor
    if cell is None:
        raise DataError(f"{where}: {key} is a stress but the frame has open boundaries: take it out or set `periodic`")
    return -abs(float(np.linalg.det(cell))) * tensor
