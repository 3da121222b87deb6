"""Evaluate any model file from Python: `load`, `Potential`, `Prediction`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsim import ops
from dpsim.calculators import farm
from dpsim.calculators.engines import Engine, ModuleEngine, check_chunk, open_engine, run_in_pieces
from dpsim.calculators.inputs import read_frame
from dpsim.calculators.long_range import with_electrostatics
from dpsim.calculators.prediction import Prediction, dipole_prediction, predictions
from dpsim.errors import ModelError, SetupError
from dpsim.model.pretrained import HUB, fetch_pretrained, hub_file
from dpsim.physics.hessian import frame_hessian
from dpsim.physics.neighborhood import collate, join, with_pairs
from dpsim.physics.neighbors import FrameGraph

_LOG = logging.getLogger(__name__)
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
EDGES_PER_BATCH = 200_000
"""Frames are evaluated together up to about this many edges."""


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

    def __init__(
        self, engine: Engine, source: str, opened: farm.Opened | None = None, chunk: int | None = None
    ) -> None:
        check_chunk(engine.facts, chunk, source)
        self._engine = engine
        self._opened = opened
        self._chunk = chunk
        self.source = source
        self.facts = engine.facts
        self.type_map = engine.facts.type_map
        self.cutoff = engine.facts.neighbors.cutoff
        self.dtype = engine.facts.dtype
        self.outputs = frozenset({engine.facts.output})

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

    def evaluate_many(
        self, frames: Iterable[Mapping[str, Any]], *, comm: Any = None, processes: int = 1
    ) -> list[Prediction]:
        """Predictions for many structures of any size, in their order; keys as the arguments of `evaluate`.

        Parameters
        ----------
        frames
            Each may also have ``source``, by which errors name it instead of by its number.
        comm
            An mpi4py communicator: every rank of it calls with the same frames and potential, evaluates its share,
            and gets all predictions.
        processes
            With more than one, that many processes of this machine load the model and share the work. The calling
            program must be guarded by ``if __name__ == "__main__":``, as for everything that starts processes.

        Raises
        ------
        DataError, ModelError
            As `evaluate`; over ranks, on all of them.
        SetupError
            If both `comm` and `processes` are given, or the potential was not made by `load` and has no file that
            other processes could read.
        """
        if comm is None and processes == 1:
            return self._evaluate_here(frames)
        if comm is not None and processes != 1:
            raise SetupError("evaluate_many shares its work over ranks or over processes: give comm or processes")
        if comm is not None:
            return farm.over_ranks(self._evaluate_here, list(frames), comm)
        if processes < 1:
            raise SetupError(f"evaluate_many was asked to run in {processes} processes: give 1 or more")
        if self._opened is None:
            raise SetupError(f"{self.source} was not made by dpsim.load, so other processes cannot load it: save it")
        return farm.over_processes(load, self._opened, list(frames), processes)

    def _evaluate_here(self, frames: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        results: list[Prediction] = []
        batch: list[tuple[FrameGraph, BoolArray]] = []
        edges = 0
        for index, frame in enumerate(frames):
            graph = self._graph(frame, index)
            if batch and edges + graph[0].n_edges > EDGES_PER_BATCH:
                results += self._run(batch)
                batch, edges = [], 0
            batch.append(graph)
            edges += graph[0].n_edges
        return results + (self._run(batch) if batch else [])

    def dipole_derivatives(
        self, positions: npt.ArrayLike, types: Any, cell: npt.ArrayLike | None = None, **inputs: Any
    ) -> Prediction:
        """Dipole of one structure with its derivatives with respect to the positions and to strain.

        Arguments as those of `evaluate`; beside what that gives, `dipole_forces` and `dipole_virial` are there. They
        take three times the time of forces, which is why `evaluate` leaves them out.

        Raises
        ------
        ModelError
            If the model predicts something else, or is frozen, which holds the dipoles only.
        """
        engine = self._engine
        if self.facts.output != "dipole":
            raise ModelError(f"{self.source} predicts {self.facts.output}: only a dipole has these derivatives")
        if not isinstance(engine, ModuleEngine):
            raise ModelError(
                f"{self.source} is frozen and gives dipoles only: load the .safetensors model for derivatives"
            )
        graph, real = self._graph({"positions": positions, "types": types, "cell": cell, **inputs}, 0)
        hood = collate([graph])
        return dipole_prediction(self.facts, hood, *engine.component_gradients(hood), real)

    def hessian(
        self, positions: npt.ArrayLike, types: Any, cell: npt.ArrayLike | None = None, **inputs: Any
    ) -> FloatArray:
        """Second derivatives of the energy of one structure with respect to the positions, exact.

        Arguments as those of `evaluate`. In float32 the result has few digits: load the model with
        ``dtype="float64"``. Memory is that of some evaluations, the time that of three evaluations an atom.

        Returns
        -------
        ndarray
            ``(3 n_atoms, 3 n_atoms)`` in eV/Å², the coordinates atom by atom; zero for placeholders. Spins stay as
            they are.

        Raises
        ------
        ModelError
            If the model predicts no energies, has electrostatics, or is frozen, which holds first derivatives only.
        """
        engine = self._engine
        if self.facts.output != "energy":
            raise ModelError(f"{self.source} predicts {self.facts.output}: only energies have a Hessian")
        if not isinstance(engine, ModuleEngine):
            raise ModelError(
                f"{self.source} is frozen and gives first derivatives only: load the .safetensors model for a Hessian"
            )
        if self.facts.long_range:
            raise ModelError(f"{self.source} has electrostatics, whose second derivatives are not there: use forces")
        graph, real = self._graph({"positions": positions, "types": types, "cell": cell, **inputs}, 0)
        coordinates = np.flatnonzero(np.repeat(real, 3))
        full = np.zeros((3 * len(real), 3 * len(real)))
        found = frame_hessian(engine.model, graph, len(self.type_map), engine.device)
        full[np.ix_(coordinates, coordinates)] = found.detach().numpy()
        return full

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

    def _graph(self, frame: Mapping[str, Any], index: int) -> tuple[FrameGraph, BoolArray]:
        frame = dict(frame)
        where = str(frame.pop("source", f"frame {index}"))
        return read_frame(self.facts, frame, where, self.source)

    def _run(self, batch: list[tuple[FrameGraph, BoolArray]]) -> list[Prediction]:
        graphs, masks = [graph for graph, _ in batch], [real for _, real in batch]
        hood = join(graphs)
        atomic, gradient = run_in_pieces(self._engine, hood, self._chunk)
        found = list(predictions(self.facts, hood, atomic, gradient, masks))
        if self.facts.long_range:
            hood = with_pairs(hood, self.facts.neighbors)
            return list(with_electrostatics(self._engine, hood, graphs, found, masks))
        return found


def load(
    path: str | Path,
    head: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    chunk: int | None = None,
) -> Potential:
    """Load a model file of any kind.

    Parameters
    ----------
    path
        ``.safetensors``, ``.ckpt`` or ``.pt2`` of dpsim; ``.dp``, ``.yaml``, ``.pt`` or ``.pth`` of DeePMD-kit; or
        ``hub://NAME`` (``hub://DPA-3.1-3M``), a pretrained model, which is fetched the first time.
    head
        Branch of a multi-task model.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    dtype
        ``"float32"``, ``"float64"`` or None for the model's own.
    chunk
        Atoms that are evaluated at a time, for models whose atoms pass no messages; None for as many as keep the
        processor or the GPU busy, 0 for all at once. Only time and memory depend on it.

    Raises
    ------
    ModelError
        If the file cannot be read, or is asked for what it does not hold.
    ConfigError, DataError, SetupError
        If there is no such pretrained model, or it cannot be fetched.
    """
    ops.keep_memory()
    file = _fetched(path) if isinstance(path, str) and path.startswith(HUB) else Path(path)
    opened = farm.Opened(str(file.resolve()), head, device, dtype, chunk)
    return Potential(open_engine(file, device, dtype, head), str(path), opened, chunk)


def _fetched(address: str) -> Path:
    if not hub_file(address).exists():
        _LOG.warning("fetching %s, which is done once", address)  # shown where nobody has set up logging, too
    return fetch_pretrained(address)


__all__ = ["Potential", "Prediction", "load"]
