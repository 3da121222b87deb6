"""Many structures evaluated side by side, over the ranks of an MPI program or over processes of this machine."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from dpsim.calculators.prediction import Prediction
from dpsim.errors import DataError, DpsimError, SetupError

Frames = Sequence[Mapping[str, Any]]
_SHARES_PER_PROCESS = 4
"""So that a process that is done early takes another share."""


class Opened(NamedTuple):
    """Arguments of `dpsim.load`, with which another process can load the same model."""

    path: str
    head: str | None
    device: str
    dtype: str | None
    chunk: int | None = None


def shares(sizes: Sequence[int], n: int) -> list[list[int]]:
    """Indices of `sizes` in `n` parts of about the same sum, each ascending; parts may be empty."""
    loads = [(0, part) for part in range(n)]
    parts: list[list[int]] = [[] for _ in range(n)]
    for index in sorted(range(len(sizes)), key=lambda k: (-sizes[k], k)):
        load, part = heapq.heappop(loads)
        parts[part].append(index)
        heapq.heappush(loads, (load + sizes[index], part))
    return [sorted(part) for part in parts]


def over_ranks(evaluate: Callable[[Frames], list[Prediction]], frames: Frames, comm: Any) -> list[Prediction]:
    """All predictions on every rank, each frame evaluated by one of them; collective.

    Parameters
    ----------
    evaluate
        Predictions of some frames.
    frames
        The same on every rank.
    comm
        An mpi4py communicator.

    Raises
    ------
    DataError
        If the ranks have unequal numbers of frames.
    Exception
        On every rank, what the lowest rank that failed met.
    """
    counts = comm.allgather(len(frames))
    if len(set(counts)) > 1:
        raise DataError(
            f"evaluate_many over ranks needs the same frames on every rank, their numbers are {counts}: "
            "broadcast the list, or evaluate without comm"
        )
    mine = shares(_sizes(frames), comm.Get_size())[comm.Get_rank()]
    outcome: tuple[list[int], list[Prediction]] | Exception
    try:
        outcome = (mine, evaluate([_named(frames, k) for k in mine]))
    except Exception as error:  # the others wait for this rank
        outcome = error
    return _in_order(comm.allgather(outcome), len(frames))


def over_processes(load: Callable[..., Any], opened: Opened, frames: Frames, processes: int) -> list[Prediction]:
    """All predictions, by processes that each load the model and share the cores.

    Parameters
    ----------
    load
        Makes a potential of what is in `opened`; a function that other processes can import.

    Raises
    ------
    DpsimError
        What a process met.
    SetupError
        If the processes ended before they began.
    """
    parts = [part for part in shares(_sizes(frames), _SHARES_PER_PROCESS * processes) if part]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    context = get_context("spawn")  # a fork of a process with threads of OpenMP stands still
    try:
        with ProcessPoolExecutor(processes, context, _open, (load, opened, threads)) as pool:
            outcomes = list(pool.map(_work, parts, [[_named(frames, k) for k in part] for part in parts]))
    except BrokenProcessPool:
        raise SetupError(
            "a process of evaluate_many ended before its work was done: it ran out of memory (use fewer processes), or "
            'the program lacks the line if __name__ == "__main__": around what it does'
        ) from None
    return _in_order(outcomes, len(frames))


def _sizes(frames: Frames) -> list[int]:
    return [int(np.size(frame.get("types", ()))) for frame in frames]


def _named(frames: Frames, index: int) -> dict[str, Any]:
    """A frame that errors call by its number among all."""
    return {"source": f"frame {index}", **frames[index]}


def _in_order(outcomes: Sequence[tuple[list[int], list[Prediction]] | Exception], n: int) -> list[Prediction]:
    found: dict[int, Prediction] = {}
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        found.update(zip(*outcome, strict=True))
    return [found[k] for k in range(n)]


# ---- in the processes ----------------------------------------------------------------------------

_potential: Any = None
_failure: DpsimError | None = None


def _open(load: Callable[..., Any], opened: Opened, threads: int) -> None:
    """Load the model once; what goes wrong is told with the first piece of work."""
    global _potential, _failure
    import torch

    torch.set_num_threads(threads)
    try:
        _potential = load(*opened)
    except DpsimError as error:
        _failure = error


def _work(part: list[int], frames: Frames) -> tuple[list[int], list[Prediction]] | Exception:
    if _failure is not None:
        return _failure
    try:
        return part, _potential.evaluate_many(frames)
    except DpsimError as error:
        return error
