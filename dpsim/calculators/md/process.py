"""One LAMMPS process tree: started, watched, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from dpsim.calculators.md.stop import Deadline
from dpsim.errors import Interrupted, SetupError

# Replaces itself by the command, after asking the kernel (Linux, prctl PR_SET_PDEATHSIG = 1) for a SIGTERM when the
# parent dies: a kill -9 of dpsim must not leave ranks behind that write into a folder another run takes over.
_WRAPPER = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15)
except (OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_GRACE = 10.0


class LammpsProcess:
    """A command that is stopped with everything it started when the block ends, however it ends.

    Parameters
    ----------
    argv, env
        Command and environment.
    folder
        Working directory.
    screen
        File for what it prints.
    deadline
        After which `check_signal` raises.

    Raises
    ------
    SetupError
        If the command cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], folder: Path, screen: Path, deadline: Deadline | None = None
    ) -> None:
        self.deadline = deadline
        self.argv, self.env, self.folder, self.screen = list(argv), dict(env), folder, screen
        self.signal: int | None = None
        self._old: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._note)
        command = [sys.executable, "-I", "-S", "-c", _WRAPPER, str(os.getpid()), *self.argv]
        try:
            with self.screen.open("wb") as screen:
                self._process = subprocess.Popen(
                    command, cwd=self.folder, env=self.env, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT,
                )  # fmt: skip
        except OSError as error:
            self._restore()
            raise SetupError(f"{self.argv[0]} cannot be started: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        finally:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def _restore(self) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    @property
    def exit_code(self) -> int | None:
        """Exit code once the command has ended; negative for the signal that killed it."""
        return self._process.returncode if self._process is not None else None

    def wait(self, seconds: float) -> bool:
        """Wait a moment; return whether the command has ended."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def check_signal(self, message: str) -> None:
        """Raise `Interrupted` if dpsim has been asked to stop, or the time is over."""
        if self.deadline is not None and (over := self.deadline.passed()):
            message = f"{over} ({message})"
        elif self.signal is None:
            return
        raise Interrupted(f"{message}; run again to continue from the last checkpoint")

    def _end(self) -> None:
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        # mpiexec starts its ranks in this session; whatever is left of it ends here.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
