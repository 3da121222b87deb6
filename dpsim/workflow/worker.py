"""The process of one stage: ``python -m dpsim.workflow.worker ENTRY``.

A stage has a process of its own since torch, LAMMPS and MPI cannot be unloaded, and since their crash must
not take the driver along. What it prints goes to the log; events go as lines of JSON to a pipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dpsim.errors import ConfigError, DpsimError, Interrupted, SetupError
from dpsim.workflow.context import Artifact, Context, Granted
from dpsim.workflow.records import locks
from dpsim.workflow.records.files import disk_problem, read_json
from dpsim.workflow.records.store import Entry
from dpsim.workflow.stage import Stage
from dpsim.workflow.stages import find_stage_type

EXIT_BUSY: Final = 73
"""Another process works on this entry (EX_CANTCREAT)."""
_SAFE_POINT_S: Final = 10
"""After SIGTERM the stage is stopped at its next progress report, or after this many seconds."""
_EVENT_INTERVAL_S: Final = 0.1


class Channel:
    """Sends events to the driver and stops the stage where that is safe."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._last_sent = 0.0
        self.stopping = False
        self.values: dict[str, Any] = {}
        """The last values reported with progress."""

    def send(self, event: Mapping[str, Any]) -> None:
        """Send one event; a driver that is gone is no reason to fail."""
        if self._descriptor is None:
            return
        line = json.dumps(event, default=_plain) + "\n"
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line.encode())

    def progress(self, event: dict[str, Any]) -> None:
        """Send progress, at most some times a second, and stop here if that was asked for."""
        self.values.update(event.get("values") or {})
        if self.stopping:
            raise Interrupted("stopped by a signal; run again to go on")
        now = time.monotonic()
        last = event.get("total") is not None and event["done"] >= event["total"]
        if last or now - self._last_sent >= _EVENT_INTERVAL_S:
            self._last_sent = now
            self.send({**event, "values": self.values})

    def install_signals(self) -> None:
        """Let SIGTERM and SIGINT stop the stage at its next progress report, or after some seconds."""

        def stop(number: int, frame: FrameType | None) -> None:
            if not self.stopping:
                self.stopping = True
                signal.alarm(_SAFE_POINT_S)

        def stop_now(number: int, frame: FrameType | None) -> None:
            raise Interrupted("stopped by a signal; run again to go on")

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGALRM, stop_now)


def _plain(value: Any) -> Any:
    """Turn numpy numbers and paths into what JSON knows."""
    return value.item() if hasattr(value, "item") else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Run the stage of an entry; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dpsim.workflow.worker")
    parser.add_argument("entry", type=Path, help="folder of the stage in the store")
    parser.add_argument("--events-fd", type=int, default=None, help="descriptor to which events are written")
    parser.add_argument("--events-file", type=Path, default=None, help="file to which events are appended instead")
    parser.add_argument("--fresh", action="store_true", help="throw away earlier outputs and work")
    parser.add_argument("--follow-driver", action="store_true", help="stop when standard input is closed")
    options = parser.parse_args(arguments)
    entry = Entry(options.entry.resolve())
    _log_to_stderr()
    channel = Channel(_appended(options.events_file) if options.events_file else options.events_fd)
    channel.install_signals()
    if options.follow_driver:
        threading.Thread(target=_watch_driver, daemon=True).start()
    held: list[Path] = []
    try:
        if not _take(entry, held, channel):
            return EXIT_BUSY
        return _run(entry, channel, fresh=options.fresh)
    except OSError as error:
        # Before the stage began, or after it: a lock, the outputs. What it does itself is dealt with in _run.
        if not (disk := disk_problem(error)):
            raise
        _fail(channel, SetupError(disk))
        return SetupError.exit_code
    finally:
        signal.alarm(0)
        _end_children()
        for path in reversed(held):
            locks.release(path)


def _appended(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _log_to_stderr() -> None:
    """Write what the libraries log to the log of the stage."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("dpsim", "data_tools"):
        logging.getLogger(name).setLevel(logging.INFO)


def _watch_driver() -> None:
    """Stop when the driver, which holds the other end of standard input, is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _take(entry: Entry, held: list[Path], channel: Channel) -> bool:
    """Take the locks of the entry and of its work folder."""
    work = _work(entry).parent
    work.mkdir(parents=True, exist_ok=True)
    for path in dict.fromkeys([entry.lock, work / "lock"]):
        try:
            taken = locks.acquire(path)
        except locks.Busy as busy:
            channel.send({"event": "busy", "message": str(busy)})
            return False
        except DpsimError as error:
            _fail(channel, error)
            raise SystemExit(error.exit_code) from None
        held.append(path)
        if taken:
            _say(taken)
            channel.send({"event": "note", "message": taken})
    return True


def _say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def _work(entry: Entry) -> Path:
    return entry.path.parents[1] / str(entry.read("stage.json").get("work", f"{entry.key[:2]}/{entry.key}/work"))


def _run(entry: Entry, channel: Channel, *, fresh: bool) -> int:
    if entry.is_done() and not fresh:
        return 0  # another driver finished it while this one waited
    try:
        _produce(entry, channel, fresh=fresh)
    except Interrupted as error:
        channel.send({"event": "interrupted", "message": str(error)})
        _say(str(error))
        return Interrupted.exit_code
    except DpsimError as error:
        if channel.stopping:
            _say(f"stopped by a signal ({error})")
            return Interrupted.exit_code
        _fail(channel, error)
        return error.exit_code
    except BaseException as error:
        if channel.stopping:
            _say(f"stopped by a signal ({type(error).__name__})")
            return Interrupted.exit_code
        if disk := disk_problem(error):
            _fail(channel, SetupError(disk))
            return SetupError.exit_code
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        message = f"out of memory: {error}" if memory else f"{type(error).__name__}: {error}"
        channel.send({"event": "error", "message": message, "kind": "memory" if memory else "bug"})
        return 7 if memory else 1
    return 0


def _fail(channel: Channel, error: DpsimError) -> None:
    with contextlib.suppress(OSError):  # the log may be on the disk that is full
        _say(f"{type(error).__name__}: {error}")
    channel.send({"event": "error", "message": str(error), "kind": type(error).__name__})


def _produce(entry: Entry, channel: Channel, *, fresh: bool) -> None:
    described = entry.read("stage.json")
    stage = _load_stage(described)
    work = _work(entry)
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    for stale in entry.path.glob(".out.*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = entry.path / f".out.{os.getpid()}"
    temporary.mkdir()
    work.mkdir(parents=True, exist_ok=True)
    run_dir = entry.path.parents[2]
    context = Context(
        inputs=_inputs(entry, run_dir),
        out=temporary,
        work=work,
        seed=described.get("seed") or 0,
        resources=Granted(**described["resources"]),
        type_map=tuple(described.get("type_map", ())),
        name=described["name"],
        run_dir=run_dir,
        base=Path(described.get("base", ".")),
        emit=channel.progress,
    )
    started = time.time()
    try:
        stage.execute(context)
        usage = _usage(started)
        if channel.values:
            entry.write("metrics.json", {"values": json.loads(json.dumps(channel.values, default=_plain)), **usage})
        entry.commit(temporary, stage.declared_outputs(), {"name": described["name"], **usage})
    finally:
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        channel.send({"event": "usage", "host": node, **_usage(started)})
        shutil.rmtree(temporary, ignore_errors=True)


def _load_stage(described: Mapping[str, Any]) -> Stage:
    stage_type = find_stage_type(str(described.get("type")))
    if stage_type is None:
        raise ConfigError(f"stage type {described.get('type')!r} is not installed here")
    return stage_type.model_validate(described["options"])


def _inputs(entry: Entry, run_dir: Path) -> dict[str, list[Artifact]]:
    slots: dict[str, list[Artifact]] = {}
    for record in entry.read("inputs.json").get("inputs", []):
        paths = tuple(run_dir / path for path in record["paths"])
        options: dict[str, Any] = {}
        kind = None
        if record["task"] is not None:
            producer = read_json(_entry_of(paths[0], run_dir) / "stage.json")
            kind, options = producer.get("type"), producer.get("options", {})
        slots.setdefault(record["slot"], []).append(Artifact(paths, record["declared"], record["task"], kind, options))
    return slots


def _entry_of(path: Path, run_dir: Path) -> Path:
    store = run_dir / "store"
    return store.joinpath(*path.relative_to(store).parts[:2])


def _usage(started: float) -> dict[str, Any]:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    usage = {"seconds": round(time.time() - started, 3), "max_rss": peak * 1024, "gpu_mem": None}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        usage["gpu_mem"] = int(torch.cuda.max_memory_allocated())
    return usage


def _end_children() -> None:
    """End what the stage left running."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # it has none, which is known without looking at every process of the machine
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1] if children else ():
        with contextlib.suppress(psutil.Error):
            child.kill()


if __name__ == "__main__":
    status = main()
    for number in (signal.SIGTERM, signal.SIGINT):  # the interpreter takes a while to end, and would die of one
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)
