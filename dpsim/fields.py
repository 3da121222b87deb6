"""The physical fields that frames carry: one row each, from which readers, checks and exporters loop.

File names follow the ``deepmd/npy`` layout; signs are those of WORKFLOW and of the files: forces are
``-dE/dr`` and the virial is ``-dE/dstrain`` (eV; stress = -virial / volume).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np

from dpsim.errors import DataError

Kind = Literal["frame", "atom", "pair"]


class Field(NamedTuple):
    """One physical field of a frame."""

    name: str
    """Name in dpsim, for example ``forces``."""
    file: str
    """Base name of the array in a ``set.*`` folder, without ``.npy``."""
    kind: Kind
    """Whether there is one value a frame, one an atom, or a matrix with a row and a column for each component of each
    atom."""
    shape: tuple[int, ...]
    """Shape of one value; ``-1`` where the data decide. Of a matrix: components of an atom."""
    unit: str
    label: bool
    """True for what a model is trained on, false for what it is given."""
    extxyz: str | None
    """Name under which it is written to extended XYZ (``REF_`` prefix, see WORKFLOW C), if it is."""

    def of_frame(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of the value of a frame; ``-1`` where the data decide."""
        if self.kind == "pair":
            return (n_atoms * self.shape[0], n_atoms * self.shape[0])
        return (n_atoms, *self.shape) if self.kind == "atom" else self.shape

    def of_atoms(self, value: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Part of the value of a frame that belongs to some of its atoms; `chosen` (n_atoms,) is a mask."""
        if self.kind == "pair":
            rows = np.repeat(chosen, self.shape[0])
            return value[np.ix_(rows, rows)]
        return value[chosen] if self.kind == "atom" else value

    @property
    def files(self) -> tuple[str, ...]:
        """Base names under which it is read: for values of atoms, ``atom_x`` and ``atomic_x`` mean the same."""
        for one, other in (("atom_", "atomic_"), ("atomic_", "atom_")):
            if self.file.startswith(one):
                return self.file, other + self.file.removeprefix(one)
        return (self.file,)


FIELDS: tuple[Field, ...] = (
    Field("energy", "energy", "frame", (), "eV", True, "REF_energy"),
    Field("forces", "force", "atom", (3,), "eV/Å", True, "REF_forces"),
    Field("virial", "virial", "frame", (3, 3), "eV", True, "REF_virial"),
    Field("hessian", "hessian", "pair", (3,), "eV/Å²", True, None),
    Field("atomic_energy", "atom_ener", "atom", (), "eV", True, None),
    Field("energy_coefficient", "atom_ener_coeff", "atom", (), "1", True, None),
    Field("force_weight", "atom_pref", "atom", (), "1", True, None),
    Field("drdq", "drdq", "atom", (3, -1), "", True, None),
    Field("dipole", "dipole", "frame", (3,), "", True, None),
    Field("atomic_dipole", "atomic_dipole", "atom", (3,), "", True, None),
    Field("polarizability", "polarizability", "frame", (3, 3), "", True, None),
    Field("atomic_polarizability", "atomic_polarizability", "atom", (3, 3), "", True, None),
    Field("atomic_weight", "atomic_weight", "atom", (), "1", True, None),
    Field("dos", "dos", "frame", (-1,), "", True, None),
    Field("atomic_dos", "atom_dos", "atom", (-1,), "", True, None),
    Field("property", "property", "frame", (-1,), "", True, None),
    Field("atomic_population", "atomic_population", "atom", (2,), "", True, None),
    Field("fparam", "fparam", "frame", (-1,), "", False, None),
    Field("aparam", "aparam", "atom", (-1,), "", False, None),
    Field("spin", "spin", "atom", (3,), "μB", False, None),
    Field("magnetic_forces", "force_mag", "atom", (3,), "eV/μB", True, None),
    Field("charge_spin", "charge_spin", "frame", (2,), "e, 1", False, None),
)

BY_NAME = {field.name: field for field in FIELDS}
BY_FILE = {file: field for field in FIELDS for file in field.files}


def fields_of_property(name: str) -> tuple[Field, ...]:
    """All fields, where ``property`` lies in ``<name>.npy``; an empty name changes nothing.

    Raises
    ------
    DataError
        If another field has this name, or it is none of a file.
    """
    other = BY_FILE.get(name)
    if (other is not None and other.name != "property") or re.search(r"[/\\\s]|^\.", name):
        raise DataError(f"a property cannot be named {name!r}: choose a name that no other array has, and no path")
    return tuple(entry._replace(file=name) if entry.name == "property" and name else entry for entry in FIELDS)
