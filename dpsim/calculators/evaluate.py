"""Evaluate any model file from Python: `load`, `Potential`, `Prediction`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsim import ops
from dpsim.calculators.engines import Engine, ModuleEngine, open_engine
from dpsim.errors import DataError, ModelError
from dpsim.physics.derivatives import forces_from_edges
from dpsim.physics.neighborhood import Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, frame_graph

FloatArray = npt.NDArray[np.float64]
EDGES_PER_BATCH = 200_000
"""Frames are evaluated together up to about this many edges."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure; members that do not apply are None. Units: eV, Å."""

    energy: float | None = None
    forces: FloatArray | None = None
    """(n_atoms, 3) eV/Å"""
    virial: FloatArray | None = None
    """(3, 3) eV, −dE/dstrain, also of open boundaries; with a volume it gives the stress, −virial/volume."""
    atomic_energy: FloatArray | None = None
    """(n_atoms,) eV"""
    atomic_virial: FloatArray | None = None
    """(n_atoms, 3, 3) eV; only its sum is defined for message passing."""
    magnetic_forces: FloatArray | None = None
    dipole: FloatArray | None = None
    polarizability: FloatArray | None = None
    dos: FloatArray | None = None
    property: FloatArray | None = None
    atomic_dipole: FloatArray | None = None
    atomic_polarizability: FloatArray | None = None
    atomic_dos: FloatArray | None = None
    atomic_property: FloatArray | None = None


class Potential:
    """A model ready to be evaluated; made by `load`.

    Attributes
    ----------
    type_map
        Chemical symbols by type.
    cutoff
        Å.
    dtype
        Floating-point type of the networks; results are always float64.
    outputs
        Physical outputs, for example ``{"energy"}``.
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self.source = source
        self.type_map = engine.type_map
        self.cutoff = engine.neighbors.cutoff
        self.dtype = engine.dtype
        self.outputs = frozenset({"energy"})

    def __repr__(self) -> str:
        return f"Potential({self.source!r}, type_map={list(self.type_map)}, cutoff={self.cutoff} Å, dtype={self.dtype})"

    def evaluate(
        self,
        positions: npt.ArrayLike,
        types: Sequence[int] | Sequence[str] | npt.ArrayLike,
        cell: npt.ArrayLike | None = None,
        **inputs: Any,
    ) -> Prediction:
        """Energy, forces and virial of one structure.

        Parameters
        ----------
        positions
            (n_atoms, 3) Å.
        types
            (n_atoms,) indices of `type_map`, or chemical symbols; −1 is a placeholder without any interaction.
        cell
            (3, 3) Å, rows are vectors; None means open boundaries.
        inputs
            ``periodic`` (three booleans, with a cell); ``fparam``, ``aparam``, ``spin`` and ``charge_spin`` for
            models that take them.

        Raises
        ------
        DataError
            If shapes do not match, numbers are not finite, or the cell is flat.
        ModelError
            If an element is unknown to the model, or an input is given that it does not take.
        """
        return self.evaluate_many([{"positions": positions, "types": types, "cell": cell, **inputs}])[0]

    def evaluate_many(self, frames: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        """Predictions for many structures of any size, in their order; keys as the arguments of `evaluate`.

        A frame may also have ``source``, by which errors name it instead of by its number.
        """
        results: list[Prediction] = []
        batch: list[tuple[FrameGraph, npt.NDArray[np.bool_]]] = []
        edges = 0
        for index, frame in enumerate(frames):
            graph = self._graph(frame, index)
            if batch and edges + graph[0].n_edges > EDGES_PER_BATCH:
                results += self._run(batch)
                batch, edges = [], 0
            batch.append(graph)
            edges += graph[0].n_edges
        return results + (self._run(batch) if batch else [])

    def descriptor(
        self, positions: npt.ArrayLike, types: Any, cell: npt.ArrayLike | None = None, **inputs: Any
    ) -> FloatArray:
        """Descriptors ``(n_atoms, dim)`` of one structure; zero for placeholders.

        Raises
        ------
        ModelError
            For a frozen model, which holds energies only.
        """
        if not isinstance(self._engine, ModuleEngine):
            raise ModelError(
                f"{self.source} is frozen and gives energies only: load the .safetensors model for descriptors"
            )
        graph, real = self._graph({"positions": positions, "types": types, "cell": cell, **inputs}, 0)
        features = self._engine.descriptor(collate([graph])).numpy()
        full = np.zeros((len(real), features.shape[1]))
        full[real] = features
        return full

    def _graph(self, frame: Mapping[str, Any], index: int) -> tuple[FrameGraph, npt.NDArray[np.bool_]]:
        frame = dict(frame)
        where = str(frame.pop("source", f"frame {index}"))
        missing = {"positions", "types"} - set(frame)
        if missing:
            raise DataError(f"{where} has no {' and no '.join(sorted(missing))}: both are needed")
        positions = _vectors(frame.pop("positions"), f"{where}: positions", "(n_atoms, 3) numbers in Å")
        types = self._types(frame.pop("types"), where)
        cell = frame.pop("cell", None)
        if cell is not None:
            cell = _vectors(cell, f"{where}: cell", "(3, 3) numbers in Å, one vector a row", rows=3)
        periodic = frame.pop("periodic", None)
        if periodic is not None and np.shape(periodic) != (3,):
            raise DataError(f"{where}: periodic is {periodic!r}, expected three booleans, one a cell vector")
        given = sorted(name for name, value in frame.items() if value is not None)
        if given:
            raise ModelError(f"{where}: {self.source} takes no {', '.join(given)}: leave it out")
        if len(types) != len(positions):
            raise DataError(f"{where}: {len(types)} types for {len(positions)} positions: one type an atom is expected")
        if not np.all(np.isfinite(positions)):
            atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
            raise DataError(f"{where}: the position of atom {atom} is not finite")
        real = types >= 0
        flags = None if periodic is None else tuple(bool(p) for p in periodic)
        try:
            return frame_graph(positions[real], types[real], cell, self._engine.neighbors, flags), real  # type: ignore[arg-type]
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def _types(self, types: Any, where: str) -> npt.NDArray[np.int64]:
        values = np.asarray(types)
        if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
            values = values.astype(str)
        if values.ndim != 1 or (values.size and values.dtype.kind not in "USiu"):
            raise DataError(
                f"{where}: types are {values.dtype} of shape {values.shape}, "
                "expected one index or chemical symbol an atom"
            )
        if values.dtype.kind in "US":
            known = {symbol: index for index, symbol in enumerate(self.type_map)}
            unknown = sorted(set(values.tolist()) - set(known))
            if unknown:
                raise ModelError(
                    f"{where}: element {unknown[0]!r} is not in the model's type map {list(self.type_map)}"
                )
            return np.array([known[symbol] for symbol in values.tolist()], dtype=np.int64)
        values = values.astype(np.int64)
        if values.size and (values.max() >= len(self.type_map) or values.min() < -1):
            wrong = int(values[(values >= len(self.type_map)) | (values < -1)][0])
            raise ModelError(f"{where}: type {wrong} is outside the model's type map {list(self.type_map)}")
        return values

    def _run(self, batch: list[tuple[FrameGraph, npt.NDArray[np.bool_]]]) -> list[Prediction]:
        hood = collate([graph for graph, _ in batch])
        atomic, gradient = self._engine.run(hood)
        forces = forces_from_edges(gradient, hood).numpy()
        per_edge = -(gradient.unsqueeze(2) * hood.displacements.unsqueeze(1))
        virials = ops.scatter_rows(per_edge, hood.neighbor, hood.types).numpy()
        return list(_split(hood, atomic.numpy(), forces, virials, [real for _, real in batch]))


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


def _split(
    hood: Neighborhood, atomic: FloatArray, forces: FloatArray, virials: FloatArray, masks: list[npt.NDArray[np.bool_]]
) -> Iterable[Prediction]:
    start = 0
    for real in masks:
        rows = slice(start, start + int(real.sum()))
        start = rows.stop

        def full(values: FloatArray, rows: slice = rows, real: npt.NDArray[np.bool_] = real) -> FloatArray:
            out = np.zeros((len(real), *values.shape[1:]))
            out[real] = values[rows]
            return out

        yield Prediction(
            energy=float(atomic[rows].sum()),
            forces=full(forces),
            virial=virials[rows].sum(axis=0),
            atomic_energy=full(atomic),
            atomic_virial=full(virials),
        )


def load(path: str | Path, head: str | None = None, device: str = "auto", dtype: str | None = None) -> Potential:
    """Load a model file of any kind.

    Parameters
    ----------
    path
        ``.safetensors``, ``.ckpt`` or ``.pt2`` of dpsim; ``.dp`` or ``.yaml`` of DeePMD-kit.
    head
        Branch of a multi-task model.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    dtype
        ``"float32"``, ``"float64"`` or None for the model's own.

    Raises
    ------
    ModelError
        If the file cannot be read, or is asked for what it does not hold.
    """
    ops.keep_memory()
    path = Path(path)
    if head is not None:
        raise ModelError(f"{path} has a single head: leave out head={head!r}")
    return Potential(open_engine(path, device, dtype), str(path))
