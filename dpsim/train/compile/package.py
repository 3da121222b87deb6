"""Compiled steps on disk: made once for all trainings of models of the same settings, found by all processes.

A package lies in ``$XDG_CACHE_HOME/dpsim/steps`` or ``~/.cache/dpsim/steps`` under a name that tells all that it
depends on: settings of the model, what is trained of it, the code of dpsim that computes it, torch, compiler and CPU.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpsim.config import Config
from dpsim.errors import SetupError
from dpsim.model.base import Model
from dpsim.model.tensors import described
from dpsim.native.cache import cache_root, locked, remove_unused, used
from dpsim.native.identity import base_key, code_key, compiler_key, find_compiler, torch_build
from dpsim.train.compile.graph import Unsupported

FORMAT = 1
KEPT = 32
"""Packages that are kept, those last used."""
_ROOMS = ("descriptors", "fittings", "model", "nn", "ops", "physics", "train/compile")
"""Folders of dpsim whose code decides what is computed."""
_POLL = 0.2
"""Seconds between two looks at whether a package is there."""

Say = Callable[[float], None]
"""Told the seconds that compiling has taken so far, now and then; it may raise to end it."""


class Request(Config):
    """What is to be compiled, and all that the result depends on."""

    format: int = FORMAT
    model: dict[str, Any]
    """Settings of the model."""
    tensors: tuple[tuple[str, tuple[int, ...], str, bool], ...]
    """Name, shape and type of each parameter and buffer, and whether it is trained."""
    derivatives: bool
    """Whether forces and virial are needed."""
    products: str
    device: str
    environment: tuple[str, ...]
    """Versions of code, torch and compiler, and the processor."""

    @property
    def key(self) -> str:
        """Name of the package."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:24]


def request_for(model: Model, derivatives: bool, products: str) -> Request:
    """Request for the step of a model as it is now.

    Raises
    ------
    SetupError
        If there is no C++ compiler.
    """
    return Request(
        model=model.config.model_dump(mode="json"),
        tensors=described(model),
        derivatives=derivatives,
        products=products,
        device=model.device.type,
        environment=(*_environment(), _device_name(model.device)),
    )


@functools.cache
def _environment() -> tuple[str, ...]:
    return (torch_build(), compiler_key(find_compiler()), _processor(), base_key("ops"), code_key(_ROOMS))


def _processor() -> str:
    """Hash of what this processor can do: a package is compiled for exactly that."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("flags", "Features"))]
    return hashlib.sha256("".join(known[:1]).encode()).hexdigest()[:16]


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"


def steps_dir() -> Path:
    """Folder of all packages."""
    return cache_root() / "steps"


def ensure(request: Request, say: Say, *, retry: bool = False) -> Path:
    """The package of a request, compiled now if it is not there yet.

    Parameters
    ----------
    say
        See `Say`; not called if the package is there.
    retry
        Try again although it failed before.

    Raises
    ------
    SetupError
        If the folder cannot be written, or the process that compiles is killed.
    Unsupported
        If the step of this model cannot be compiled.
    """
    path = steps_dir() / f"{request.key}.pt2"
    if path.is_file():
        used(path)
        return path
    failure = path.with_suffix(".failed")
    with locked(path.with_suffix(".lock"), say, otherwise=", or write `compile: false`"):
        if path.is_file():
            return path
        if failure.is_file() and not retry:
            raise Unsupported(failure.read_text().strip())
        try:
            _compile(request, path, say)
        except Unsupported as error:
            failure.write_text(str(error))
            raise
        failure.unlink(missing_ok=True)
        remove_unused(path.parent, "*.pt2", KEPT)
    return path


def _compile(request: Request, path: Path, say: Say) -> None:
    """Let a process of its own compile, so that neither its memory nor its settings stay in the training."""
    log, begin = path.with_suffix(".log"), time.monotonic()
    for left in path.parent.glob(f".{path.stem}-*"):  # of a process that was killed; nobody else holds the lock
        shutil.rmtree(left, ignore_errors=True)
    command = [sys.executable, "-P", "-W", "ignore", "-m", "dpsim.train.compile.worker", str(path)]
    pipe = subprocess.PIPE
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as request_pipe:
                request_pipe.write(request.model_dump_json())
            while process.poll() is None:
                say(time.monotonic() - begin)
                time.sleep(_POLL)
        except BaseException:
            process.terminate()
            raise
        said = process.stdout.read()
    if process.returncode == 0 and path.is_file():
        log.unlink(missing_ok=True)
        return
    if process.returncode == UNSUPPORTED:
        raise Unsupported((said.strip().splitlines() or ["it cannot be compiled"])[-1])
    if process.returncode > 0:
        raise Unsupported(f"compiling the step failed; the log is {log}")
    raise SetupError(f"compiling the step was ended by signal {-process.returncode}; the log is {log}")


UNSUPPORTED = 3
"""Exit code of the process that compiles, where the step cannot be compiled; it has printed why."""
