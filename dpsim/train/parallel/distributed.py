"""Processes that train together: what they tell each other, and how they end together.

Every process calls the same methods of its `Workers` in the same order; what one of them finds wrong ends all.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dpsim import errors
from dpsim.errors import DpsimError, StageError

Value = TypeVar("Value")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others within a step; one that ends is noticed at once."""
_FAILURE = "dpsim/failure"
_FAILURES, _HEARD = "dpsim/failures", "dpsim/heard"
_COURTESY = timedelta(milliseconds=300)
_LINGER = 3.0
"""Seconds that the others are given to hear, or to tell, what went wrong."""


class Lost(StageError):
    """Another process does not answer any more."""


@dataclass
class Workers:
    """One of the processes of a training, and how it speaks with the others.

    Attributes
    ----------
    rank, number
        Number of this process, from 0, and how many there are.
    local_rank, local_number
        The same among those on this machine.
    store
        Where a process leaves word for the others.
    hosts_store
        Whether the store ends with this process.
    fate
        Tells what became of a process that is gone, as far as this one knows.
    """

    rank: int = 0
    number: int = 1
    local_rank: int = 0
    local_number: int = 1
    store: Any = None
    hosts_store: bool = False
    fate: Callable[[], str] = field(default=lambda: "")
    _turn: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.number == 1

    @property
    def title(self) -> str:
        """How messages call this process."""
        return f"process {self.rank} of {self.number}"

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, number by number."""
        if self.alone:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64)
        with self._talking():
            dist.all_reduce(vector)
        return vector.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Value) -> list[Value]:
        """Values of all processes, in their order, for all of them."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.number
        with self._talking():
            dist.all_gather_object(found, value)
        return found

    def collect(self, value: Value) -> list[Value]:
        """Values of all processes, in their order, for the first; nothing for the others."""
        if self.alone:
            return [value]
        found: list[Any] | None = [None] * self.number if self.first else None
        with self._talking():
            dist.gather_object(value, found)
        return found or []

    def once(self, make: Callable[[], Value]) -> Value:
        """Make something in the first process, for all; however long it takes."""
        if self.alone:
            return make()
        self._turn += 1
        key, content = f"dpsim/once/{self._turn}", [make() if self.first else None]
        with self._talking():
            if self.first:
                self.store.set(key, "made")
            self._wait_for(key)
            dist.broadcast_object_list(content, src=0, device=torch.device("cpu"))
        return content[0]  # type: ignore[return-value]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        with self._talking():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def add_for(self, owners: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum in the process that owns it; in the others it is then of no use."""
        with self._talking():
            works = [dist.reduce(t, owner, async_op=True) for owner, t in zip(owners, tensors, strict=True)]
            for work in works:
                work.wait()

    def spread(self, owners: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Copy each tensor from the process that owns it to the others."""
        with self._talking():
            works = [dist.broadcast(t, owner, async_op=True) for owner, t in zip(owners, tensors, strict=True)]
            for work in works:
                work.wait()

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sum([0.0])

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except DpsimError:
            raise
        except RuntimeError as error:  # all that torch.distributed raises
            raise Lost(str(error).splitlines()[0]) from None

    def _wait_for(self, key: str) -> None:
        while True:
            try:
                self.store.wait([key], timedelta(seconds=1))
                return
            except dist.DistNetworkError:
                raise
            except dist.DistStoreError:
                if self.store.check([_FAILURE]):
                    raise Lost("another process has failed") from None

    # --- the end -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ending_together(self) -> Iterator[None]:
        """Within, what one process raises is raised by all; the process group is left at the end.

        Raises
        ------
        DpsimError
            What another process raised, marked as said; `StageError` if it is gone without a word.
        """
        try:
            yield
            if not self.alone:
                self.wait()
        except BaseException as error:
            raised = error if self.alone else self._failed(error)
            if raised is error:
                raise
            raise raised from None
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            self.store = None

    def _failed(self, error: BaseException) -> BaseException:
        """Tell the others, or hear from them; what this process raises."""
        with contextlib.suppress(RuntimeError):  # the store may be gone with its process
            if not self.first and not isinstance(error, Lost):
                self._let_first_speak()
            told = not isinstance(error, Lost) and self.store.add(_FAILURES, 1) == 1
            if told:
                self.store.set(_FAILURE, json.dumps(_record(error, self.title)))
            if dist.is_initialized():
                dist.destroy_process_group()  # the others wait no longer
            said = None if told else self._said()
            self.store.add(_HEARD, 1)
            self._linger()
            if said is not None:
                return _again(said)
        if isinstance(error, Lost):
            return StageError(
                f"{self.title} lost another one ({self.fate() or error}): the others end; start them again to go on "
                "from the newest checkpoint"
            )
        return error

    def _let_first_speak(self) -> None:
        """Where all found the same wrong, the first says it."""
        with contextlib.suppress(dist.DistStoreError):
            self.store.wait([_FAILURE], _COURTESY)

    def _said(self) -> dict[str, Any] | None:
        """What the first process to fail has said, if it had the time."""
        end = time.monotonic() + _LINGER
        while time.monotonic() < end:
            gone = bool(self.fate())
            if self.store.check([_FAILURE]):
                return dict(json.loads(self.store.get(_FAILURE)))
            if gone:
                break
            time.sleep(0.02)
        return None

    def _linger(self) -> None:
        """Keep the store until all have heard."""
        end = time.monotonic() + (_LINGER if self.number > 2 or not self.fate() else 0.0)
        while self.hosts_store and self.store.add(_HEARD, 0) < self.number and time.monotonic() < end:
            time.sleep(0.02)


ALONE = Workers()
"""A training in a single process."""


def _record(error: BaseException, title: str) -> dict[str, Any]:
    code = error.exit_code if isinstance(error, DpsimError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    text = str(error) if isinstance(error, DpsimError) else f"{title}: {type(error).__name__}: {error}"
    return {"kind": type(error).__name__, "message": text, "exit_code": code}


def _again(record: dict[str, Any]) -> DpsimError:
    """What another process said, as this one raises it."""
    kind = getattr(errors, str(record["kind"]), DpsimError)
    error: DpsimError = kind(record["message"]) if issubclass(kind, DpsimError) else DpsimError(record["message"])
    error.exit_code, error.said = int(record["exit_code"]), True
    return error
