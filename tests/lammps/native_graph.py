"""The C entries of libdpsim_halo through ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from dpsim.export.metadata import ListMetadata
from dpsim.physics.neighbors import NeighborSpec


def load(plugin: Path) -> ctypes.CDLL:
    """The library; torch and MPI must be in the process before."""
    import torch

    from dpsim import ops
    from dpsim.lammps.session import preload_mpi

    assert torch.__version__
    ops.load()
    preload_mpi()
    library = ctypes.CDLL(str(plugin / "libdpsim_halo.so"))
    library.dpsim_graph_new.restype = ctypes.c_void_p
    library.dpsim_graph_fields.restype = ctypes.c_int64
    library.dpsim_graph_size.restype = ctypes.c_int64
    library.dpsim_pieces.restype = ctypes.c_int64
    library.dpsim_halo_new.restype = ctypes.c_void_p
    for name in ("handle", "remote_rows", "bytes_sent", "buffer_bytes"):
        getattr(library, f"dpsim_halo_{name}").restype = ctypes.c_int64
    for name in ("dpsim_halo_route", "dpsim_choose_gpu"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Address of an array's data."""
    return ctypes.c_void_p(array.ctypes.data)


def _listed(neighbors: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], ctypes.Array[ctypes.c_void_p]]:
    """A list as LAMMPS has it: numbers of neighbours, the neighbours, and where these begin."""
    lists = [np.ascontiguousarray(n, dtype=np.int32) for n in neighbors]
    table = (ctypes.c_void_p * len(lists))(*[n.ctypes.data for n in lists])
    return np.array([len(n) for n in neighbors], dtype=np.int32), lists, table


def piece_ends(
    library: ctypes.CDLL,
    spec: NeighborSpec,
    n_types: int,
    *,
    positions: np.ndarray,
    row: np.ndarray,
    centers: np.ndarray,
    neighbors: list[np.ndarray],
    atoms: int = -1,
    items: int = 0,
) -> list[int]:
    """Ends of the pieces that centres are divided into."""
    counts, lists, table = _listed(neighbors)
    own, ends = np.ascontiguousarray(centers, dtype=np.int32), np.empty(len(centers) + 1, dtype=np.int64)
    n = library.dpsim_pieces(
        ListMetadata.of(spec).model_dump_json().encode(), ctypes.c_int64(n_types), pointer(positions), pointer(row),
        ctypes.c_int64(len(own)), pointer(own), pointer(counts), table, ctypes.c_int64(atoms), ctypes.c_int64(items),
        pointer(ends),
    )  # fmt: skip
    assert len(lists) == len(counts)
    return ends[:n].tolist()


class NativeGraph:
    """A graph made by the plugin's code from plain arrays; with `offsets`, of the doubled system of a spin model."""

    def __init__(
        self,
        library: ctypes.CDLL,
        spec: NeighborSpec,
        n_types: int,
        *,
        positions: np.ndarray,
        row: np.ndarray,
        row_types: np.ndarray,
        centers: np.ndarray,
        neighbors: list[np.ndarray],
        offsets: np.ndarray | None = None,
        tensor_path: bool = False,
    ) -> None:
        self.library, self.n_atoms = library, len(positions)
        counts, lists, table = _listed(neighbors)
        self._keep = (counts, lists, table, np.ascontiguousarray(centers, dtype=np.int32))
        handle = library.dpsim_graph_new(
            ListMetadata.of(spec).model_dump_json().encode(), ctypes.c_int64(n_types), ctypes.c_int64(self.n_atoms),
            pointer(positions), None if offsets is None else pointer(offsets), pointer(row),
            ctypes.c_int64(len(row_types)), pointer(row_types), ctypes.c_int64(len(centers)), pointer(self._keep[3]),
            pointer(counts), table, ctypes.c_int(tensor_path),
        )  # fmt: skip
        if not handle:
            raise ValueError("the plugin does not understand the lists")
        self.handle = ctypes.c_void_p(handle)

    def choose(self, first: int, end: int) -> None:
        """Take the edges of these centres alone."""
        self.library.dpsim_graph_choose(self.handle, ctypes.c_int64(first), ctypes.c_int64(end))

    def fields(self) -> list[np.ndarray]:
        """Inputs of a model in their order, without its extra inputs and the plan."""
        return [self._field(k) for k in range(self.library.dpsim_graph_fields(self.handle))]

    def _field(self, number: int) -> np.ndarray:
        size = self.library.dpsim_graph_size(self.handle, number)
        out = np.empty(size, dtype=np.float64 if number == 0 else np.int64)
        self.library.dpsim_graph_copy(self.handle, number, pointer(out))
        return out.reshape(-1, 3) if number == 0 else out

    def scatter(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Forces, virial, atomic virials and, in a doubled system, forces on virtual atoms of an edge gradient."""
        self.add(gradient)
        return self.sums()

    def add(self, gradient: np.ndarray) -> None:
        """Add an edge gradient of the chosen centres to the sums."""
        gradient = np.ascontiguousarray(gradient)
        self.library.dpsim_graph_add(self.handle, pointer(gradient))

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `scatter` gives, of all that was added."""
        forces, virial, atom = np.empty((self.n_atoms, 3)), np.empty(9), np.empty((self.n_atoms, 3, 3))
        on_virtual = np.zeros((self.n_atoms, 3))
        self.library.dpsim_graph_sums(self.handle, pointer(forces), pointer(virial), pointer(atom), pointer(on_virtual))
        return forces, virial.reshape(3, 3), atom, on_virtual

    def close(self) -> None:
        """Free it."""
        self.library.dpsim_graph_delete(self.handle)
