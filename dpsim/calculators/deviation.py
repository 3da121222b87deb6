"""How far the models of an ensemble are from each other: the deviation that says where a model has not learned.

The deviation of a quantity is its standard deviation over the models; of the force on an atom, the length of that of
its components. A relative one is divided by the length of the mean over the models plus a level. LAMMPS writes the same
numbers along a run (``pair_style dpsim A.pt2 B.pt2 ... out_file FILE``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsim.calculators.ase_frame import frame_of
from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.data.files import write_text
from dpsim.errors import ModelError

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = npt.NDArray[np.float64]
_CHUNK = 64


@dataclass(frozen=True)
class Deviation:
    """Deviation of an ensemble for one structure; relative ones have no unit."""

    forces: FloatArray
    """(n_atoms,) eV/Å"""
    virial: FloatArray
    """(3, 3) eV an atom"""
    energy: float
    """eV an atom; always absolute"""
    magnetic_forces: FloatArray | None = None
    """(n_atoms,) eV/μB of spin models"""

    @property
    def columns(self) -> tuple[float, ...]:
        """Largest, least and mean of the virial (of its nine components, the mean quadratic) and of the forces.

        Those of magnetic forces follow if there are any.
        """
        v = self.virial.ravel()
        found = [v.max(initial=0.0), v.min(initial=np.inf), np.sqrt((v**2).mean())]
        for values in (self.forces, self.magnetic_forces):
            if values is not None:
                found += [values.max(), values.min(), values.mean()] if len(values) else [0.0, 0.0, 0.0]
        return tuple(float(x) for x in found)


def model_deviation(
    models: Sequence[str | Path | Potential],
    structures: Iterable[Atoms | Mapping[str, Any]],
    *,
    relative: float | None = None,
    relative_v: float | None = None,
) -> list[Deviation]:
    """Deviation of several models for structures.

    Parameters
    ----------
    models
        Two or more model files or potentials.
    structures
        Structures of ASE, or arguments of `Potential.evaluate` by name.
    relative
        Level in eV/Å (and eV/μB): deviations of forces are divided by the length of the mean force plus this.
    relative_v
        Level in eV: those of the virial likewise, by the norm of the mean virial of an atom plus this.

    Raises
    ------
    ModelError
        If there are less than two models, one predicts something else than energies, or does not know an element.
    DataError
        If a structure is not one.
    """
    potentials = [one if isinstance(one, Potential) else load(one) for one in models]
    _check(potentials)
    found: list[Deviation] = []
    chunk: list[Atoms | Mapping[str, Any]] = []
    for structure in structures:
        chunk.append(structure)
        if len(chunk) == _CHUNK:
            found += _deviations(potentials, chunk, relative, relative_v)
            chunk = []
    return found + _deviations(potentials, chunk, relative, relative_v)


def _check(potentials: Sequence[Potential]) -> None:
    if len(potentials) < 2:
        raise ModelError(f"a deviation needs two models or more, found {len(potentials)}: name another one")
    for one in potentials:
        if one.facts.output != "energy":
            raise ModelError(f"{one.source} predicts {one.facts.output}: deviations are those of forces and virials")
        if (one.facts.spin is None) != (potentials[0].facts.spin is None):
            raise ModelError(f"only one of {potentials[0].source} and {one.source} is a spin model: take models alike")


def _deviations(
    potentials: Sequence[Potential],
    structures: Sequence[Atoms | Mapping[str, Any]],
    relative: float | None,
    relative_v: float | None,
) -> list[Deviation]:
    if not structures:
        return []
    rows = [
        one.evaluate_many(dict(s) if isinstance(s, Mapping) else frame_of(s, one) for s in structures)
        for one in potentials
    ]
    return [deviation(predictions, relative, relative_v) for predictions in zip(*rows, strict=True)]


def deviation(
    predictions: Sequence[Prediction], relative: float | None = None, relative_v: float | None = None
) -> Deviation:
    """Deviation of the predictions of several models for one structure; levels as of `model_deviation`."""
    forces = _stacked([p.forces for p in predictions])
    n = max(forces.shape[1], 1)
    virials = _stacked([p.virial for p in predictions]) / n
    energies = np.array([p.energy for p in predictions], dtype=np.float64) / n
    magnetic = [p.magnetic_forces for p in predictions if p.magnetic_forces is not None]
    virial = virials.std(axis=0)
    if relative_v is not None:
        virial = virial / (np.linalg.norm(virials.mean(axis=0)) + relative_v)
    return Deviation(
        forces=_of_vectors(forces, relative),
        virial=virial,
        energy=float(energies.std()),
        magnetic_forces=_of_vectors(_stacked(magnetic), relative) if magnetic else None,
    )


def _stacked(arrays: Sequence[FloatArray | None]) -> FloatArray:
    return np.stack([np.asarray(a, dtype=np.float64) for a in arrays])


def _of_vectors(values: FloatArray, level: float | None) -> FloatArray:
    """Of (models, n, 3), the length of the deviation of each vector."""
    found: FloatArray = np.linalg.norm(values.std(axis=0), axis=-1)
    return found if level is None else found / (np.linalg.norm(values.mean(axis=0), axis=-1) + level)


def write_deviations(
    path: Path, deviations: Sequence[Deviation], *, steps: Sequence[int] | None = None, atomic: bool = False
) -> None:
    """Write a table with the columns of ``dp model-devi``: step, virial, forces, energy, and the forces of all atoms.

    Parameters
    ----------
    steps
        Number of each structure; by default their place, from 0.
    atomic
        Whether a column for each atom follows.
    """
    magnetic = bool(deviations) and deviations[0].magnetic_forces is not None
    kinds = ("v", "fr", "fm") if magnetic else ("v", "f")
    names = [f"{what}_devi_{kind}" for kind in kinds for what in ("max", "min", "avg")]
    names += ["devi_e", *(["atm_devi_f(N)"] if atomic else [])]
    lines = ["#" + "step".rjust(11) + "".join(name.rjust(19) for name in names)]
    for step, one in zip(range(len(deviations)) if steps is None else steps, deviations, strict=True):
        numbers = [*one.columns, one.energy, *(one.forces if atomic else ())]
        lines.append(str(step).rjust(12) + "".join(f" {x:18.10e}" for x in numbers))
    write_text(path, "\n".join(lines) + "\n")
