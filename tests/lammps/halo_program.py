"""Run on several ranks: the halo operators against a plain model of what each rank should hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from native_graph import load, pointer

library = load(Path(sys.argv[1]))  # before mpi4py, so that both use the same MPI
import ctypes  # noqa: E402

from mpi4py import MPI  # noqa: E402

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()


def owned_rows(of_rank: int) -> int:
    """The last rank of several has no atoms."""
    return 0 if size > 1 and of_rank == size - 1 else 5 + 3 * of_rank


def check(seed: int, tail: tuple[int, ...], dtype: torch.dtype, staged: bool) -> float:
    """Rows arrive where they should; returns the relative violation of <extend f, y> = <f, fold y>.

    `staged` sends them by the way of a GPU's.
    """
    rng = np.random.default_rng([seed, rank])
    n, n_ghosts = owned_rows(rank), (0 if seed == 2 and rank == 0 else 40)
    owners = [r for r in range(size) if owned_rows(r)]
    owner = rng.choice(owners, n_ghosts).astype(np.int32)
    index = np.array([rng.integers(-1, owned_rows(o)) for o in owner], dtype=np.int64)
    slot = np.empty(n_ghosts, dtype=np.int64)
    halo = ctypes.c_void_p(
        library.dpsim_halo_new(
            comm.py2f(), ctypes.c_int64(n), ctypes.c_int64(n_ghosts), pointer(owner), pointer(index), pointer(slot)
        )
    )
    if staged:
        library.dpsim_halo_stage_always(halo)
    remote = library.dpsim_halo_remote_rows(halo)
    unique = {(o, i) for o, i in zip(owner.tolist(), index.tolist(), strict=True) if o != rank and i >= 0}
    assert remote == len(unique), f"{remote} remote rows, expected {len(unique)}"
    plan = torch.tensor([library.dpsim_halo_handle(halo)])

    label = torch.arange(n, dtype=dtype).reshape(-1, *[1] * len(tail)) + 1000.0 * rank
    extended = torch.ops.dpsim.halo_extend(label.expand(n, *tail).contiguous(), torch.empty(n + remote), plan)
    assert extended.shape == (n + remote, *tail)
    for g in range(n_ghosts):
        if index[g] < 0:
            assert slot[g] == -1
        else:
            assert (extended[slot[g]] == 1000.0 * int(owner[g]) + int(index[g])).all(), f"ghost {g} of rank {rank}"

    generator = torch.Generator().manual_seed(17 * seed + rank)
    f = torch.randn((n, *tail), generator=generator, dtype=dtype)
    y = torch.randn((n + remote, *tail), generator=generator, dtype=dtype)
    one = comm.allreduce(float((torch.ops.dpsim.halo_extend(f, y, plan) * y).sum(dtype=torch.float64)))
    two = comm.allreduce(float((f * torch.ops.dpsim.halo_fold(y, f, plan)).sum(dtype=torch.float64)))
    scale = comm.allreduce(float((y * y).sum(dtype=torch.float64)))
    sent = comm.allreduce(library.dpsim_halo_bytes_sent(halo))
    width = int(np.prod(tail)) * f.element_size()
    received = comm.allreduce(remote) * width
    assert sent == 3 * received, f"{sent} bytes sent in three exchanges of {received}"
    held = library.dpsim_halo_buffer_bytes(halo)
    again = torch.ops.dpsim.halo_fold(torch.ops.dpsim.halo_extend(f, y, plan), f, plan)
    assert again.shape == f.shape
    assert library.dpsim_halo_buffer_bytes(halo) == held, "buffers are kept from one exchange to the next"
    library.dpsim_halo_delete(halo)
    return abs(one - two) / scale


worst = {torch.float64: 0.0, torch.float32: 0.0}
for seed in range(4):
    for tail in ((), (7,), (3, 4)):
        for dtype in worst:
            for staged in (False, True):
                worst[dtype] = max(worst[dtype], check(seed, tail, dtype, staged))
empty = np.empty(0, dtype=np.int64)
halo = ctypes.c_void_p(
    library.dpsim_halo_new(
        comm.py2f(),
        ctypes.c_int64(0),
        ctypes.c_int64(0),
        pointer(empty.astype(np.int32)),
        pointer(empty),
        pointer(empty),
    )
)
for wanted in (b"auto", b"host", b"device"):
    said = comm.gather(library.dpsim_halo_route(halo, wanted, b"cpu").decode())
    if rank == 0:
        assert len(set(said)) == 1
        print("route", wanted.decode(), said[0], flush=True)
if library.dpsim_mpi_claims_device_memory():  # a device that fails when its memory is used
    for wanted in (b"auto", b"device"):
        said = comm.gather(library.dpsim_halo_route(halo, wanted, b"meta").decode())
        if rank == 0:
            assert len(set(said)) == 1
            print("trial", wanted.decode(), said[0], flush=True)
library.dpsim_halo_delete(halo)
if rank == 0:
    print("claims", library.dpsim_mpi_claims_device_memory())
    print(f"adjoint {worst[torch.float64]:.3e} {worst[torch.float32]:.3e}", flush=True)
