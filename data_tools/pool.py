"""A few worker processes that take tasks and give answers as JSON lines; one that dies is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ATTEMPTS = 2
"""How often a task is given to a worker that dies over it, before it counts as failed."""


class _Worker:
    """One process, and the thread that listens to it."""

    def __init__(self, command: list[str], log: IO[bytes], answers: queue.Queue[tuple[_Worker, dict[str, Any] | None]]):
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
        )
        self.task: dict[str, Any] | None = None
        self._listener = threading.Thread(target=self._listen, args=(answers,), daemon=True)
        self._listener.start()

    def _listen(self, answers: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                answers.put((self, json.loads(line)))
            except ValueError:  # the last line of a process that was killed
                break
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            self._kill_programs()
        self.process.wait()
        answers.put((self, None))

    def _kill_programs(self) -> None:
        """End the programs that calculators started and a worker that died has left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def give(self, task: dict[str, Any]) -> None:
        """Send a task; a worker that is gone answers with its end."""
        self.task = task
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def end(self, kill: bool) -> None:
        """Close the process and its pipes."""
        if kill:
            self._kill_programs()
            self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self._listener.join()
        self.process.stdout.close()


def run_tasks(
    tasks: Iterable[dict[str, Any]], workers: int, log: Path, state_of: Mapping[int, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the answers of the workers as they come.

    Parameters
    ----------
    tasks
        Each with an integer ``task`` of its own.
    workers
        Number of processes.
    log
        File to which what they print is appended.
    state_of
        The newest state of each task, looked up when a task is given (again).

    Yields
    ------
    dict
        What the worker wrote, or ``{"task", "error"}`` for a task over which workers died.
    """
    waiting = deque(tasks)
    attempts: dict[int, int] = {}
    answers: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    command = [sys.executable, "-P", "-m", "data_tools.worker", str(os.getpid())]
    crew: list[_Worker] = []

    def employ(worker: _Worker) -> None:
        if waiting:
            task = waiting.popleft()
            attempts[task["task"]] = attempts.get(task["task"], 0) + 1
            worker.give({**task, "state": (state_of or {}).get(task["task"])})
        else:
            worker.task = None

    with log.open("ab") as stream:
        try:
            for _ in range(min(workers, len(waiting))):
                crew.append(_Worker(command, stream, answers))
                employ(crew[-1])
            while any(worker.task is not None for worker in crew):
                worker, answer = answers.get()
                if answer is not None:
                    yield answer
                    if "done" in answer or "error" in answer:
                        employ(worker)
                    continue
                crew.remove(worker)
                lost, code = worker.task, worker.process.returncode
                worker.end(kill=False)
                if lost is None:
                    continue
                if attempts[lost["task"]] < ATTEMPTS:
                    waiting.appendleft(lost)
                else:
                    yield {"task": lost["task"], "error": f"the worker {_how(code)}, see {log}"}
                crew.append(_Worker(command, stream, answers))
                employ(crew[-1])
        finally:
            for worker in crew:
                worker.end(kill=worker.task is not None)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    except ValueError:
        return f"was killed by signal {-code}"
