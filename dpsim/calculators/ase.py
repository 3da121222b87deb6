"""`DPCalculator`: any model of dpsim as an ASE calculator."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from dpsim.calculators.ase_frame import beside_structure, frame_of
from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.errors import DataError, ModelError


class DPCalculator(Calculator):  # type: ignore[misc]  # ase has no types
    """ASE calculator for one model, or a committee of models.

    Parameters
    ----------
    model
        A model file, a list of model files (the first one drives, all give ``energy_comm`` and
        ``forces_comm``), or a `Potential`.
    head, device, dtype, chunk
        As in `dpsim.load`.

    Notes
    -----
    Results are float64: ``energy`` (= ``free_energy``), ``forces``, ``energies`` (per atom), ``stress`` (eV/Å³,
    tensile positive, Voigt xx yy zz yz xz xy) and ``stresses`` (per atom; only their sum, the stress, is defined for
    message passing). Stress needs a cell that is periodic in all three directions.

    Spin models take the spins from the array ``spin`` of the structure, else from its initial magnetic moments, in μB;
    a moment that is a number is along z. They also give ``magnetic_forces`` ``(n, 3)``, −dE/dspin in eV/μB. ASE moves
    atoms, not spins.

    Models of something else than energies give that alone: ``dipole`` and ``atomic_dipole``, ``polarizability``,
    ``dos``, ``population``, or a property under its own name, each with its atomic values. Parameters that a model
    takes are read from ``atoms.info`` (``fparam``, ``charge_spin``, ``aparam``) and ``atoms.arrays`` (``aparam``).
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress", "energies", "stresses"]
    default_parameters: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential],
        head: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        models = [model] if isinstance(model, str | Path | Potential) else list(model)
        if not models:
            raise ModelError("DPCalculator needs at least one model, found an empty list")
        self.potentials = [m if isinstance(m, Potential) else load(m, head, device, dtype, chunk) for m in models]
        names = [_name(potential) for potential in self.potentials]
        if len(set(names)) > 1:
            raise ModelError(f"a committee predicts one thing, found models of {', '.join(dict.fromkeys(names))}")
        if names[0] != "energy":
            self.implemented_properties = [names[0], f"atomic_{names[0]}"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything at once; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        full = bool(atoms.pbc.all()) and atoms.cell.rank == 3
        if {"stress", "stresses"} & set(properties) and not full:
            raise PropertyNotImplementedError(
                f"stress needs a cell that is periodic in three directions, found pbc={atoms.pbc.tolist()}"
            )
        predictions = [potential.evaluate(**frame_of(atoms, potential)) for potential in self.potentials]
        self.results = self._results(predictions, atoms.get_volume() if full else None)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What of the structure changed since the last calculation; what models take beside it counts."""
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None and not changes:
            before, now = (self._beside(a) for a in (self.atoms, atoms))
            changes += [name for name in before.keys() | now.keys() if not _same(before.get(name), now.get(name))]
        return changes

    def _beside(self, atoms: Atoms) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for potential in self.potentials:
            with contextlib.suppress(DataError):  # spins may be missing before, or be given after, a refused structure
                found |= beside_structure(atoms, potential)
        return found

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives of the energy with respect to the positions, ``(3n, 3n)`` in eV/Å².

        They are those of the first model, exact, and left as they are by constraints. ASE's vibrations come from
        ``VibrationsData.from_2d(atoms, calc.get_hessian(atoms)).get_frequencies()``.

        Raises
        ------
        ModelError
            If the model is frozen.
        """
        structure = self.atoms if atoms is None else atoms
        if structure is None:
            raise ModelError("there is no structure yet: give get_hessian one")
        return self.potentials[0].hessian(**frame_of(structure, self.potentials[0]))

    def _results(self, predictions: list[Prediction], volume: float | None) -> dict[str, Any]:
        first, output = predictions[0], self.potentials[0].facts.output
        if output != "energy":
            name = _name(self.potentials[0])
            found = {name: getattr(first, output), f"atomic_{name}": getattr(first, f"atomic_{output}")}
            several = {f"{name}_comm": np.stack([getattr(p, output) for p in predictions])}
            return found | (several if len(predictions) > 1 else {})
        results: dict[str, Any] = {
            "energy": first.energy,
            "free_energy": first.energy,
            "forces": first.forces,
            "energies": first.atomic_energy,
        }
        if first.magnetic_forces is not None:
            results["magnetic_forces"] = first.magnetic_forces
        if volume is not None:
            assert first.virial is not None
            assert first.atomic_virial is not None
            results["stress"] = full_3x3_to_voigt_6_stress(-_symmetric(first.virial) / volume)
            results["stresses"] = full_3x3_to_voigt_6_stress(-_symmetric(first.atomic_virial) / volume)
        if len(predictions) > 1:
            results["energy_comm"] = np.array([p.energy for p in predictions])
            results["forces_comm"] = np.stack([p.forces for p in predictions if p.forces is not None])
        return results


def _name(potential: Potential) -> str:
    """Name of the result that a model gives."""
    return potential.facts.property_name or potential.facts.output


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and np.array_equal(a, b)


def _symmetric(tensor: np.ndarray) -> np.ndarray:
    return 0.5 * (tensor + np.swapaxes(tensor, -1, -2))
