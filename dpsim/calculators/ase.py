"""`DPCalculator`: any model of dpsim as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.errors import ModelError


class DPCalculator(Calculator):  # type: ignore[misc]  # ase has no types
    """ASE calculator for one model, or a committee of models.

    Parameters
    ----------
    model
        A model file, a list of model files (the first one drives, all give ``energy_comm`` and
        ``forces_comm``), or a `Potential`.
    head, device, dtype
        As in `dpsim.load`.

    Notes
    -----
    Results are float64: ``energy`` (= ``free_energy``), ``forces``, ``energies`` (per atom), ``stress`` (eV/Å³,
    tensile positive, Voigt xx yy zz yz xz xy) and ``stresses`` (per atom; only their sum, the stress, is defined for
    message passing). Stress needs a cell that is periodic in all three directions.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies", "stresses"]
    default_parameters: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential],
        head: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        models = [model] if isinstance(model, str | Path | Potential) else list(model)
        if not models:
            raise ModelError("DPCalculator needs at least one model, found an empty list")
        self.potentials = [m if isinstance(m, Potential) else load(m, head, device, dtype) for m in models]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything at once; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        periodic = atoms.pbc.any()
        full = bool(atoms.pbc.all()) and atoms.cell.rank == 3
        if {"stress", "stresses"} & set(properties) and not full:
            raise PropertyNotImplementedError(
                f"stress needs a cell that is periodic in three directions, found pbc={atoms.pbc.tolist()}"
            )
        predictions = [
            potential.evaluate(
                atoms.positions,
                atoms.get_chemical_symbols() or np.zeros(0, dtype=int),
                atoms.cell.array if periodic else None,
                periodic=atoms.pbc if periodic else None,
            )
            for potential in self.potentials
        ]
        self.results = self._results(predictions, atoms.get_volume() if full else None)

    def _results(self, predictions: list[Prediction], volume: float | None) -> dict[str, Any]:
        first = predictions[0]
        results: dict[str, Any] = {
            "energy": first.energy,
            "free_energy": first.energy,
            "forces": first.forces,
            "energies": first.atomic_energy,
        }
        if volume is not None:
            assert first.virial is not None
            assert first.atomic_virial is not None
            results["stress"] = full_3x3_to_voigt_6_stress(-_symmetric(first.virial) / volume)
            results["stresses"] = full_3x3_to_voigt_6_stress(-_symmetric(first.atomic_virial) / volume)
        if len(predictions) > 1:
            results["energy_comm"] = np.array([p.energy for p in predictions])
            results["forces_comm"] = np.stack([p.forces for p in predictions if p.forces is not None])
        return results


def _symmetric(tensor: np.ndarray) -> np.ndarray:
    return 0.5 * (tensor + np.swapaxes(tensor, -1, -2))
