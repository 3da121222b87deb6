"""dpdata driver ``dpsim``: ``system.predict("model.safetensors", driver="dpsim")``."""

from __future__ import annotations

from typing import Any

import numpy as np
from dpdata.driver import Driver


@Driver.register("dpsim")
class DPSimDriver(Driver):  # type: ignore[misc]  # dpdata has no types
    """Labels a dpdata system with a model of dpsim.

    Parameters
    ----------
    model
        Path of any model file that `dpsim.load` reads.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self.model, self.options = model, options

    def label(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add ``energies``, ``forces`` and ``virials`` to a copy of the system's data."""
        from dpsim.calculators.evaluate import load

        potential = load(self.model, **self.options)
        symbols = [data["atom_names"][t] for t in data["atom_types"]]
        cells = [None] * len(data["coords"]) if data.get("nopbc", False) else data["cells"]
        predictions = potential.evaluate_many(
            {"positions": coord, "types": symbols, "cell": cell}
            for coord, cell in zip(data["coords"], cells, strict=True)
        )
        labelled = dict(data)
        labelled["energies"] = np.array([p.energy for p in predictions])
        labelled["forces"] = np.stack([p.forces for p in predictions if p.forces is not None])
        if not data.get("nopbc", False):
            labelled["virials"] = np.stack([p.virial for p in predictions if p.virial is not None])
        return labelled
