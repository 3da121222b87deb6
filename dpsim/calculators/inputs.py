"""What users give to a model: checked, and turned into the graph of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsim.calculators.engines import ModelFacts
from dpsim.calculators.long_range import placed
from dpsim.errors import DataError, ModelError
from dpsim.physics.neighbors import CHARGES, SPINS, FrameGraph, frame_graph
from dpsim.physics.spin import spin_graph

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def read_frame(facts: ModelFacts, frame: Mapping[str, Any], where: str, source: str) -> tuple[FrameGraph, BoolArray]:
    """Graph of the atoms of a frame, and which of its atoms are no placeholders.

    Parameters
    ----------
    frame
        Arguments of `Potential.evaluate` by name.
    where
        Names the frame in errors.
    source
        Names the model in errors.

    Raises
    ------
    DataError
        If shapes do not match, numbers are not finite, the cell is flat, or atoms are closer than a table begins.
    ModelError
        If an element is unknown, or an input is missing or not taken.
    """
    frame = dict(frame)
    missing = {"positions", "types"} - set(frame)
    if missing:
        raise DataError(f"{where} has no {' and no '.join(sorted(missing))}: both are needed")
    positions = _vectors(frame.pop("positions"), f"{where}: positions", "(n_atoms, 3) numbers in Å")
    types = read_types(facts.type_map, frame.pop("types"), where)
    cell = frame.pop("cell", None)
    if cell is not None:
        cell = _vectors(cell, f"{where}: cell", "(3, 3) numbers in Å, one vector a row", rows=3)
    periodic = frame.pop("periodic", None)
    if periodic is not None and np.shape(periodic) != (3,):
        raise DataError(f"{where}: periodic is {periodic!r}, expected three booleans, one a cell vector")
    if len(types) != len(positions):
        raise DataError(f"{where}: {len(types)} types for {len(positions)} positions: one type an atom is expected")
    if not np.all(np.isfinite(positions)):
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise DataError(f"{where}: the position of atom {atom} is not finite")
    real = types >= 0
    given = _parameters(facts, frame, len(types), where, source)
    flags = None if periodic is None else (bool(periodic[0]), bool(periodic[1]), bool(periodic[2]))
    structure = positions[real], types[real], cell, facts.neighbors, flags
    try:
        if facts.spin is None:
            graph = frame_graph(*structure)
        else:
            graph = spin_graph(*structure, given.pop("spin")[real], facts.spin)
        _check_closest(graph, facts.shortest)
        if facts.long_range:
            graph = placed(graph, *structure)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if "aparam" in given:
        virtual = np.zeros((graph.n_atoms - int(real.sum()), facts.inputs.n_aparam))
        given["aparam"] = np.concatenate([given["aparam"][real], virtual])
    return replace(graph, **given), real  # type: ignore[arg-type]


def _check_closest(graph: FrameGraph, shortest: float) -> None:
    distance = np.linalg.norm(graph.displacements, axis=1)
    if distance.min(initial=shortest) < shortest:
        e = int(distance.argmin())
        raise DataError(
            f"atoms {graph.center[e]} and {graph.neighbor[e]} are {distance[e]:.3g} Å apart, and the model's table of "
            f"pair energies begins at {shortest:g} Å: move them apart"
        )


def _parameters(
    facts: ModelFacts, frame: dict[str, Any], n_atoms: int, where: str, source: str
) -> dict[str, FloatArray]:
    """Parameters that the model takes, from what is left of the frame, or their defaults."""
    inputs = facts.inputs
    wanted = {
        "fparam": (inputs.n_fparam, inputs.default_fparam, (inputs.n_fparam,)),
        "aparam": (inputs.n_aparam, None, (n_atoms, inputs.n_aparam)),
        "charge_spin": (2 * inputs.charge_spin, inputs.default_charge_spin, (2,)),
        "spin": (0 if facts.spin is None else 3, None, (n_atoms, 3)),
    }
    found: dict[str, FloatArray] = {}
    for name, (size, default, shape) in wanted.items():
        value = frame.pop(name, None) if size else None
        if size and value is None:
            if default is None:
                raise ModelError(f"{where}: {source} takes {name} ({size} numbers): give {name} of shape {shape}")
            value = default
        if size:
            found[name] = _numbers(value, shape, f"{where}: {name}")
    if "charge_spin" in found:
        _check_charge_spin(found["charge_spin"], where)
    superfluous = sorted(name for name, value in frame.items() if value is not None)
    if superfluous:
        raise ModelError(f"{where}: {source} takes no {', '.join(superfluous)}: leave it out")
    return found


def _check_charge_spin(values: FloatArray, where: str) -> None:
    charge, spin = values
    if not (charge in CHARGES and spin in SPINS):
        raise DataError(
            f"{where}: charge_spin is {values.tolist()}, expected a whole charge of {CHARGES[0]} to {CHARGES[-1]} "
            f"and a multiplicity of {SPINS[0]} to {SPINS[-1]}"
        )


def _numbers(value: Any, shape: tuple[int, ...], what: str) -> FloatArray:
    """Finite numbers of a shape; one row stands for all atoms, and a flat array is taken row by row."""
    try:
        array = np.asarray(value, dtype=np.float64)
        if array.size == np.prod(shape):
            array = array.reshape(shape)
        array = np.broadcast_to(array, shape).copy()
    except (TypeError, ValueError):
        raise DataError(f"{what} has shape {np.shape(value)}, expected {shape} numbers") from None
    if not np.all(np.isfinite(array)):
        raise DataError(f"{what} has values that are not finite")
    return array


def read_types(type_map: tuple[str, ...], types: Any, where: str) -> npt.NDArray[np.int64]:
    """Types (n_atoms,) from indices or chemical symbols; −1 is a placeholder.

    Raises
    ------
    DataError
        If they are neither.
    ModelError
        If the model does not know one.
    """
    values = np.asarray(types)
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "USiu"):
        raise DataError(
            f"{where}: types are {values.dtype} of shape {values.shape}, expected one index or chemical symbol an atom"
        )
    if values.dtype.kind in "US":
        known = {symbol: index for index, symbol in enumerate(type_map)}
        unknown = sorted(set(values.tolist()) - set(known))
        if unknown:
            raise ModelError(f"{where}: element {unknown[0]!r} is not in the model's type map {list(type_map)}")
        return np.array([known[symbol] for symbol in values.tolist()], dtype=np.int64)
    values = values.astype(np.int64)
    if values.size and (values.max() >= len(type_map) or values.min() < -1):
        wrong = int(values[(values >= len(type_map)) | (values < -1)][0])
        raise ModelError(f"{where}: type {wrong} is outside the model's type map {list(type_map)}")
    return values


def _vectors(values: Any, what: str, expected: str, rows: int | None = None) -> FloatArray:
    """Read three numbers a row; a flat array is taken row by row."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} cannot be read as an array, expected {expected}") from None
    if array.ndim == 1 and array.size % 3 == 0:
        array = array.reshape(-1, 3)
    if array.ndim != 2 or array.shape[1] != 3 or rows not in (None, len(array)):
        raise DataError(f"{what}: found shape {array.shape}, expected {expected}")
    return array
