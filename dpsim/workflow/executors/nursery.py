"""Processes of stages by fork, from one that has done the imports.

Each stage has a process of its own (see `worker`). A new interpreter that imports pydantic and the settings takes a
fifth of a second, more than many a small stage; a fork of one that has done so takes milliseconds. Nothing heavy is
imported before the fork: neither numpy nor torch, whose threads and environment belong to the stage.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from dpsim.errors import SetupError

_PACKET: Final = 1 << 20
_EVENTS: Final = 3
"""Descriptor of the events in a forked process."""
LIGHT: Final = frozenset({"command", "convert", "freeze", "inspect", "loop", "report", "test"})
"""Stage types whose settings are imported before the fork; those of others load numpy."""


class Process(Protocol):
    """What is used of a started process; `subprocess.Popen` fits."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal, None as long as it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit status."""


class Forked:
    """A process that the nursery has forked."""

    def __init__(self, pid: int, nursery: Nursery) -> None:
        self.pid = pid
        self._nursery = nursery
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal, None as long as it runs."""
        if self._code is None:
            self._code = self._nursery.code_of(self.pid)
        return self._code

    def send_signal(self, sig: int, /) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
            If it takes longer than `timeout` (s).
        """
        while (code := self.poll()) is None:
            if not self._nursery.listen(timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code


class Nursery:
    """The driver's side: starts the forking process when it is first needed.

    If that process is killed, what it forked is ended, for nobody could tell its exit status, and counts as killed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._codes: dict[int, int] = {}
        self._alive: set[int] = set()
        self._environment: dict[str, str] = {}
        self._started = 0

    def fork(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], cwd: Path, descriptors: Sequence[int]
    ) -> Forked:
        """Start ``worker.main(arguments)`` in a session of its own.

        Parameters
        ----------
        arguments
            Of the worker; ``--events-fd`` is added.
        environment
            All its variables.
        cwd
            Its folder.
        descriptors
            Standard input, standard output with standard error, events.

        Raises
        ------
        SetupError
            If the forking process cannot be started, or died over this twice.
        """
        with contextlib.suppress(SetupError):  # it may have been killed: once more with another
            return self._fork(arguments, environment, cwd, descriptors)
        return self._fork(arguments, environment, cwd, descriptors)

    def _fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, descriptors: Sequence[int]
    ) -> Forked:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        request = {
            "arguments": list(arguments),
            "set": {name: value for name, value in environment.items() if self._environment.get(name) != value},
            "unset": [name for name in self._environment if name not in environment],
            "cwd": str(cwd),
        }
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(descriptors))
            while (answer := self._receive()) is not None:
                if "pid" in answer:
                    pid = int(answer["pid"])
                    self._alive.add(pid)
                    return Forked(pid, self)
        except OSError as error:
            self._lost()
            raise SetupError(f"the process that starts stages cannot be reached: {error}; run again") from None
        self._lost()
        raise SetupError("the process that starts stages ended before it started one; run again")

    def code_of(self, pid: int) -> int | None:
        """Return the exit status of a forked process that has ended."""
        while pid in self._alive and self.listen(0.0):
            pass
        return self._codes.get(pid)

    def listen(self, timeout: float | None) -> bool:
        """Wait for one message at most; return whether there was one."""
        if self._socket is None or not select.select([self._socket], [], [], timeout)[0]:
            return False
        with contextlib.suppress(OSError):
            if self._receive() is not None:
                return True
        self._lost()
        return True

    @property
    def descriptor(self) -> tuple[int, int] | None:
        """Number of this forking process and what becomes readable when a fork has ended; None if there is none yet."""
        return None if self._socket is None else (self._started, self._socket.fileno())

    def close(self) -> None:
        """End the forking process; those it has forked see that their driver is gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dpsim.workflow.executors.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            mine.close()
            raise SetupError(f"no process can be started: {(error.strerror or str(error)).lower()}") from None
        finally:
            theirs.close()
        self._socket = mine
        self._started += 1

    def _receive(self) -> dict[str, Any] | None:
        """Take one message; None if the other end is gone."""
        assert self._socket is not None
        packet = self._socket.recv(_PACKET)
        if not packet:
            return None
        message: dict[str, Any] = json.loads(packet)
        if "ended" in message:
            self._alive.discard(message["ended"])
            self._codes[message["ended"]] = message["code"]
        return message

    def _lost(self) -> None:
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self._codes[pid] = -signal.SIGKILL
        self._alive.clear()
        self.close()


# --- the forking process -------------------------------------------------------------------------------------


def main(descriptor: int) -> int:
    """Fork on request until the driver is gone; in each fork, return the exit status of its stage."""
    from dpsim.workflow import worker

    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            if not _tell_ended(channel):
                return 0
        if channel.fileno() not in ready:
            continue
        packet, descriptors, _, _ = socket.recv_fds(channel, _PACKET, 3)
        if not packet:
            return 0
        request = json.loads(packet)
        _prepare(Path(request["arguments"][0]))
        pid = os.fork()
        if pid == 0:
            channel.detach()  # its descriptor is closed, and may be that of another file by the time this object goes
            _become_stage(request, descriptors)
            return worker.main([*request["arguments"], "--events-fd", str(_EVENTS)])
        for number in descriptors:
            os.close(number)
        channel.send(json.dumps({"pid": pid}).encode())


def _tell_ended(channel: socket.socket) -> bool:
    """Tell the driver of every process that has ended; return whether it still listens."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            try:
                channel.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
            except OSError:
                return False
    return True


def _prepare(entry: Path) -> None:
    """Import the settings of the stage's type if they are light; all later stages of that type then have them."""
    import psutil  # noqa: F401 - every stage uses it

    from dpsim.workflow.records.files import read_json
    from dpsim.workflow.stages import find_stage_type

    uses = read_json(entry / "stage.json").get("type")
    if uses in LIGHT:
        with contextlib.suppress(Exception):  # the stage itself will say what is wrong
            find_stage_type(str(uses))
    gc.freeze()


def _become_stage(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Turn a fork into what a new interpreter would be."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    given, log, events = (os.dup(number) for number in descriptors)  # none of them is 0 to 3 then
    for target, number in ((0, given), (1, log), (2, log), (_EVENTS, events)):
        os.dup2(number, target, inheritable=target < _EVENTS)
    os.closerange(_EVENTS + 1, os.sysconf("SC_OPEN_MAX"))
    for name in request["unset"]:
        os.environ.pop(name, None)
    os.environ.update(request["set"])
    os.chdir(request["cwd"])
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
