"""Loads the native operators, once per process."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from dpsim.errors import SetupError
from dpsim.native import build

_lock = threading.RLock()
_loaded = False
_reason: str | None = None


def load() -> bool:
    """Make the native operators available, building them if they are not built yet.

    Safe to call from many threads and processes, and cheap after the first call. A failure is remembered
    for the life of the process, and a failing build on this machine is not tried again by other processes.

    Returns
    -------
    bool
        False when they cannot be had; `unavailable_reason` then says why.
    """
    global _loaded, _reason
    if _loaded:
        return True
    with _lock:
        if _loaded or _reason is not None:
            return _loaded
        try:
            if not _registered():
                folder = build.ensure("ops", progress=_say, retry=False)
                torch.ops.load_library(str(build.library("ops", folder)))  # type: ignore[no-untyped-call]
        except (SetupError, OSError) as error:
            _reason = str(error)
            return False
        _register()
        _loaded = True
    return True


def unavailable_reason() -> str | None:
    """One sentence on why the native operators are missing; None if they are loaded or were never asked for."""
    return _reason


_any_order: ContextVar[bool] = ContextVar("any_order", default=False)


@contextlib.contextmanager
def any_order() -> Iterator[None]:
    """Within, what is computed is differentiable more than twice, as Hessians in a loss need; it takes longer.

    Elsewhere `gather_act_reduce`, `message` and layer norms, whose third derivative torch gets wrong, are not.
    """
    token = _any_order.set(True)
    try:
        yield
    finally:
        _any_order.reset(token)


def is_any_order() -> bool:
    """Whether more than two derivatives are asked for (`any_order`)."""
    return _any_order.get()


def native(tensor: torch.Tensor) -> bool:
    """Whether the native version applies to `tensor`: it is on the CPU, and the library is there."""
    return tensor.device.type == "cpu" and load()


def _registered() -> bool:
    """Whether something else, such as the LAMMPS plugin, brought the library into this process already."""
    return hasattr(torch.ops.dpsim, "halo_extend")


def _register() -> None:
    """Register fake kernels and derivatives of all operators."""
    from dpsim.ops.convolution import register as register_convolution
    from dpsim.ops.embedding import register as register_embedding
    from dpsim.ops.environment import register as register_environment
    from dpsim.ops.gather_act_reduce import register as register_fused
    from dpsim.ops.halo import register as register_halo
    from dpsim.ops.message import register as register_message
    from dpsim.ops.neighbor_outer import register as register_neighbor_outer
    from dpsim.ops.outer import register as register_outer
    from dpsim.ops.pairs import register as register_pairs
    from dpsim.ops.rows import register as register_rows
    from dpsim.ops.tabulate import register as register_tables
    from dpsim.ops.typed import register as register_typed

    basic = (register_halo, register_rows, register_outer, register_pairs, register_tables, register_typed)
    fused = (register_fused, register_message, register_embedding, register_environment, register_convolution)
    for register in (*basic, *fused, register_neighbor_outer):
        register()


def _say(line: str) -> None:
    print(f"dpsim: {line}", file=sys.stderr, flush=True)
