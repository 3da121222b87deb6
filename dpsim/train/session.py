"""What surrounds a training in its process: the lock on its folder, the signal to stop, the threads."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

from dpsim.errors import ConfigError, SetupError, StageError

log = logging.getLogger("dpsim.train")

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go of it however the process ends.

    Raises
    ------
    StageError
        If another process holds it.
    """
    path = folder / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StageError(
                f"{folder} is being trained into by {holder}: wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            log.warning(
                "%s cannot be locked on this file system (%s): take care that one process uses it", folder, error
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


class StopSignal:
    """Remembers that somebody asked to stop: SIGTERM, a function of the caller, or the time that is over.

    Signals are only listened to in the main thread, the one place where Python allows it.

    Parameters
    ----------
    walltime
        Seconds from now. It counts as over while there is time for two more of the longest step so far, with what may
        be saved in it.
    """

    def __init__(self, stop: Callable[[], bool] | None, walltime: float | None = None) -> None:
        self._stop = stop
        self._end = math.inf if walltime is None else time.monotonic() + walltime
        self._asked, self._longest = math.inf, 0.0
        self._received = False
        self._previous: object = None
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> StopSignal:
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come or the time is over; it may be asked at any moment."""
        return self._received or time.monotonic() >= self._end

    @property
    def requested(self) -> bool:
        """Whether to save and stop after this step, at the end of which this is asked."""
        now = time.monotonic()
        self._longest, self._asked = max(self._longest, now - self._asked), now
        if now + 2 * self._longest >= self._end:
            return True
        return self._received or (self._stop is not None and bool(self._stop()))


@contextlib.contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch compute with this many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """Device by its name: ``auto``, ``cpu`` or ``cuda``.

    Parameters
    ----------
    local_rank
        Number of this process among those on the machine: each has the next GPU.

    Raises
    ------
    ConfigError
        If the name is another.
    SetupError
        If a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu or cuda")
    if name == "cuda" and not there:
        raise SetupError(
            "device cuda was asked for, but torch sees no GPU: install its driver and a CUDA build of torch, or use cpu"
        )
    if not there or name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if local_rank else torch.device("cuda")
