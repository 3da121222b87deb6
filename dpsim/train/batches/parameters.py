"""What a model takes beside the structure, from the frames of a training (spec common.md §10)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dpsim.data import Frame
from dpsim.errors import DataError
from dpsim.physics.neighbors import CHARGES, SPINS, ModelInputs

FloatArray = npt.NDArray[np.float64]


def wanted(inputs: ModelInputs) -> dict[str, tuple[int, tuple[float, ...] | None]]:
    """Names of what a model takes, each with its number of components and its default."""
    every: dict[str, tuple[int, tuple[float, ...] | None]] = {
        "fparam": (inputs.n_fparam, inputs.default_fparam),
        "aparam": (inputs.n_aparam, None),
        "charge_spin": (2 * inputs.charge_spin, inputs.default_charge_spin),
    }
    return {name: entry for name, entry in every.items() if entry[0]}


def parameters_of(frame: Frame, inputs: ModelInputs) -> dict[str, FloatArray]:
    """Parameters of a frame and of its atoms, or their defaults, by name.

    Raises
    ------
    DataError
        If one is missing, has another number of components, or is no charge and spin multiplicity.
    """
    found: dict[str, FloatArray] = {}
    for name, (size, default) in wanted(inputs).items():
        value = frame.labels.get(name, default)
        if value is None:
            raise DataError(f"the model takes {name} ({size} numbers), and the frame has none: add {name}.npy")
        array = np.asarray(value, dtype=np.float64)
        if array.shape[-1:] != (size,):
            raise DataError(f"{name} has {array.shape[-1] if array.ndim else 1} numbers, the model takes {size}")
        found[name] = array
    if "charge_spin" in found:
        charge, spin = found["charge_spin"]
        if not (charge in CHARGES and spin in SPINS):
            raise DataError(
                f"charge_spin is {found['charge_spin'].tolist()}, expected a whole charge of {CHARGES[0]} to "
                f"{CHARGES[-1]} and a multiplicity of {SPINS[0]} to {SPINS[-1]}"
            )
    return found
