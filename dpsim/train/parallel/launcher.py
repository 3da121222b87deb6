"""How the processes of a training come together: started by ``torchrun``, by MPI, or by the first of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from dpsim.errors import ConfigError, SetupError, StageError
from dpsim.train.parallel.distributed import ALONE, TIMEOUT, Workers
from dpsim.train.parallel.place import TORCHRUN, Launcher, Place, recognised

_PATIENCE = 10.0
"""Seconds in which the other processes end by themselves."""


@contextlib.contextmanager
def joined(launcher: Launcher = "auto", device: str = "auto") -> Iterator[Workers]:
    """Join the other processes that were started with this one; a single one is `ALONE`.

    Parameters
    ----------
    launcher
        What started them; ``auto`` looks at the environment.
    device
        ``cpu``, ``cuda`` or ``auto``: what they will compute on.

    Raises
    ------
    SetupError
        If they were not started in this way, or the MPI of mpi4py is not that of the launcher.
    DpsimError
        What one of them raised; see `Workers.ending_together`.
    """
    kind = recognised(os.environ) if launcher == "auto" else launcher
    if kind == "none":
        yield ALONE
        return
    place, store, hosts = _by_torchrun() if kind == "torchrun" else _by_mpi()
    if place.number == 1:
        yield ALONE
        return
    with connected(place, store, hosts, device) as workers:
        yield workers


@contextlib.contextmanager
def connected(
    place: Place, store: Any, hosts: bool, device: str, fate: Callable[[], str] | None = None
) -> Iterator[Workers]:
    """Connect the processes that share a store.

    Parameters
    ----------
    hosts
        Whether the store lives in this process.
    fate
        Says which of the others has ended, if this process can tell; it is asked while they come together.

    Raises
    ------
    StageError
        If one of the others ended before it had come.
    """
    _share_cores(place)
    _process_group(place, store, device, fate)
    workers = Workers(*place, store=store, hosts_store=hosts)
    with workers.ending_together():
        yield workers


def _process_group(place: Place, store: Any, device: str, fate: Callable[[], str] | None) -> None:
    if device != "cpu" and torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        torch.cuda.set_device(place.local_rank % gpus)
        backend = f"cpu:gloo,cuda:{'nccl' if place.local_number <= gpus else 'gloo'}"  # NCCL takes one process a GPU
    else:
        backend = "gloo"
    failed: list[RuntimeError] = []

    def join() -> None:
        try:
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.number, timeout=TIMEOUT)
        except RuntimeError as error:
            failed.append(error)

    if fate is None:
        join()
    else:
        _watched(join, fate)
    if failed:
        raise SetupError(f"the {place.number} processes cannot be connected: {failed[0]}") from None


def _watched(join: Callable[[], None], fate: Callable[[], str]) -> None:
    """Do what waits for the others inside of torch, which nothing interrupts, and look whether they still live."""
    waiting = threading.Thread(target=join, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.5)
        if waiting.is_alive() and (ended := fate()):
            raise StageError(f"{ended} before all had come together")


def _share_cores(place: Place) -> None:
    """Let each process on a machine compute with its part of the cores, where nothing else is asked for."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.local_number))


def _by_torchrun() -> tuple[Place, Any, bool]:
    from torch.distributed.rendezvous import rendezvous

    missing = [name for name in TORCHRUN if name not in os.environ]
    if missing:
        raise SetupError(
            f"launcher: torchrun sets {missing[0]}, which is not set: start with `torchrun --nproc-per-node N -m dpsim "
            "train ...`"
        )
    number = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", str(number)))
    place = Place(int(os.environ["RANK"]), number, *local)
    if number == 1:
        return place, None, False
    store, _, _ = next(iter(rendezvous("env://")))
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return place, store, place.rank == 0 and not elsewhere


def _by_mpi() -> tuple[Place, Any, bool]:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise SetupError(
            f"launcher: mpi needs mpi4py and its MPI library, which cannot be loaded ({error}): run `pip install mpich "
            "mpi4py`, or use torchrun"
        ) from None
    comm = MPI.COMM_WORLD
    if comm.size == 1 and recognised(os.environ) == "mpi":
        raise SetupError(
            f"MPI started several processes, but mpi4py ({MPI.Get_library_version().splitlines()[0].strip(chr(0))}) "
            "sees a single one: start with the mpiexec of the same MPI, or use torchrun"
        )
    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    place = Place(comm.rank, comm.size, here.rank, here.size)
    if place.number == 1:
        return place, None, False
    store: Any = None
    address = None
    if place.rank == 0:
        host = "127.0.0.1" if here.size == comm.size else socket.getfqdn()
        store = _new_store(host, place.number)
        address = host, store.port
    host, port = comm.bcast(address)
    if store is None:
        store = join_store(host, port, place.number)
    return place, store, place.rank == 0


def _new_store(host: str, number: int) -> Any:
    return dist.TCPStore(host, 0, number, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def join_store(host: str, port: int, number: int) -> Any:
    """The store that another process made."""
    return dist.TCPStore(host, port, number, is_master=False)  # type: ignore[attr-defined]


@contextlib.contextmanager
def started(number: int, device: str = "auto") -> Iterator[Workers]:
    """Start the other processes of a training from this one, which is the first.

    They wait for what `dpsim.train.parallel.ranks.train_on` tells them, and end with this process however it ends.

    Raises
    ------
    ConfigError
        If the number is below 1.
    DpsimError
        What one of them raised; see `Workers.ending_together`.
    """
    if number < 1:
        raise ConfigError(f"ranks: {number}: expected 1 or more")
    if number == 1:
        yield ALONE
        return
    store = _new_store("127.0.0.1", number)
    others = [_start(rank, number, store.port, device) for rank in range(1, number)]
    try:
        with connected(Place(0, number, 0, number), store, True, device, lambda: _fate(others)) as workers:
            workers.fate = lambda: _fate(others)
            yield workers
    finally:
        _end(others)


def _start(rank: int, number: int, port: int, device: str) -> subprocess.Popen[bytes]:
    place = [str(rank), str(number), str(port), device]
    return subprocess.Popen([sys.executable, "-P", "-m", "dpsim.train.parallel.ranks", *place], stdin=subprocess.PIPE)


def _fate(others: list[subprocess.Popen[bytes]]) -> str:
    """Which of the processes ended, and how; empty if none did."""
    for rank, process in enumerate(others, start=1):
        code = process.poll()
        if code is not None and code < 0:
            return f"process {rank} was ended by signal {-code} ({signal.strsignal(-code)})"
        if code is not None:
            return f"process {rank} ended with status {code}"
    return ""


def _end(others: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the others, who follow this process; end those that do not."""
    deadline = time.monotonic() + _PATIENCE
    for process in others:
        with contextlib.suppress(OSError):
            if process.stdin is not None and process.poll() is not None:
                process.stdin.close()
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
