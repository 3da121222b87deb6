"""Builds the compiled parts of dpsim once per machine, and finds them afterwards.

Each build lies in its own folder of the cache (``$XDG_CACHE_HOME/dpsim/native`` or
``~/.cache/dpsim/native``), named by what it depends on, and appears there by one rename. Processes that want
the same build (the ranks of an MPI program) wait for the first one. Two targets exist: ``ops``, the custom
operators for torch, and ``plugin``, the LAMMPS plugin, which links the operators of ``ops``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import SetupError
from dpsim.native.cache import cache_root, locked, remove_unused, used
from dpsim.native.identity import (
    TARGETS,
    Compiler,
    Target,
    base_key,
    compiler_key,
    find_compiler,
    isa_level,
    source_dir,
    torch_build,
)

Progress = Callable[[str], None]

LIBRARIES: dict[Target, str] = {"ops": "libdpsim_ops.so", "plugin": "dpsimplugin.so"}
KEPT = 16
"""Builds of each target that are kept, those last used."""
_MARK = "build.json"
_ABOUT = {"ops": "native operators", "plugin": "LAMMPS plugin"}


class Job(NamedTuple):
    """What is built into a folder of the cache."""

    about: str
    """For messages."""
    library: str
    """File that must be there in the end."""
    options: tuple[str, ...]
    """Of CMake, beside those that all builds have."""
    facts: dict[str, str]
    """Kept in the folder, beside torch, compiler and instruction set."""


def cache_dir() -> Path:
    """Folder that holds all builds."""
    return cache_root() / "native"


def build_dir_if_ready(target: Target) -> Path | None:
    """Folder of a finished build of `target` that fits this machine, or None; never builds, never raises.

    Without a compiler on the PATH a build by any compiler will do, so nodes without one can use what was
    built beside them.
    """
    try:
        return _ready(target)
    except (SetupError, OSError, RuntimeError):
        return None


def library(target: Target, folder: Path) -> Path:
    """File to load in the build folder of `target`."""
    return folder / LIBRARIES[target]


def ensure(target: Target, *, verbose: bool = False, progress: Progress | None = None, retry: bool = True) -> Path:
    """Folder with the libraries of `target`, built now if need be.

    Parameters
    ----------
    target
        ``"ops"`` or ``"plugin"``.
    verbose
        Pass every line of the build tool on to `progress` (or to standard error).
    progress
        Receives one line at a time; by default nothing is said.
    retry
        Try again although the same build failed before.

    Raises
    ------
    SetupError
        No compiler, a failing build (with the path of its log), or a cache that cannot be written.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(TARGETS)}")
    say = progress or (_to_stderr if verbose else _silent)
    ready = _ready(target)
    if ready is not None:
        return ready
    compiler = find_compiler()
    operators = ensure("ops", verbose=verbose, progress=progress, retry=retry) if target == "plugin" else None
    plugin = "ON" if target == "plugin" else "OFF"
    job = Job(_ABOUT[target], LIBRARIES[target], (f"-DDPSIM_BUILD_PLUGIN={plugin}",), {"target": target})
    folder = build_at(_folder(target, compiler), job, compiler, operators, say, verbose=verbose, retry=retry)
    linked = {file.resolve().parent.name for file in cache_dir().glob(f"*/{LIBRARIES['ops']}") if file.is_symlink()}
    remove_unused(cache_dir(), f"{target}-*-????????", KEPT, linked)  # folders; what lies beside them has longer names
    return folder


def build_at(
    folder: Path,
    job: Job,
    compiler: Compiler,
    operators: Path | None,
    say: Progress,
    *,
    verbose: bool = False,
    retry: bool = True,
) -> Path:
    """Build into a folder of the cache, unless it is there; processes that want the same wait for the first.

    Raises
    ------
    SetupError
        As `ensure`.
    """
    started = time.time()
    with _locked(folder, say):
        if _complete(folder):
            return folder
        _check_earlier_failure(folder, started if retry else 0.0)
        _build(folder, job, compiler, operators, say, verbose)
    return folder


def facts_of(folder: Path) -> dict[str, str]:
    """What is kept about a finished build; empty if it is none."""
    try:
        found = json.loads((folder / _MARK).read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _ready(target: Target) -> Path | None:
    """Finished build by this machine's compiler, or by any where it has none; it counts as used now."""
    base = base_key(target)
    try:
        folder = cache_dir() / f"{target}-{base}-{compiler_key(find_compiler())}"
    except SetupError:
        found = (path.parent for path in sorted(cache_dir().glob(f"{target}-{base}-*/{_MARK}")))
        return next(filter(_complete, found), None)
    if not _complete(folder):
        return None
    used(folder)
    used((folder / LIBRARIES["ops"]).resolve().parent)  # those that a plugin links
    return folder


def _complete(folder: Path) -> bool:
    """Whether a build is there, and the operators' library that it may link to."""
    return (folder / _MARK).is_file() and (folder / LIBRARIES["ops"]).is_file()


def _folder(target: Target, compiler: Compiler) -> Path:
    return cache_dir() / f"{target}-{base_key(target)}-{compiler_key(compiler)}"


def _log(folder: Path) -> Path:
    return folder.with_name(folder.name + ".log")


def _failure(folder: Path) -> Path:
    return folder.with_name(folder.name + ".failed")


@contextmanager
def _locked(folder: Path, say: Progress) -> Iterator[None]:
    """Hold the lock of one build; other processes wait here until it is finished."""
    said: list[bool] = []

    def waiting(seconds: float) -> None:
        if not said:
            say("waiting for another process that builds the same native code")
        said.append(True)

    with locked(folder.with_name(folder.name + ".lock"), waiting):
        yield


def _check_earlier_failure(folder: Path, since: float) -> None:
    """Raise again what another process met after `since` while this one waited for it."""
    path = _failure(folder)
    if path.is_file() and path.stat().st_mtime >= since:
        raise SetupError(path.read_text().strip())


def _build(folder: Path, job: Job, compiler: Compiler, operators: Path | None, say: Progress, verbose: bool) -> None:
    """Configure, compile and install into a temporary folder, then rename it to its place."""
    say(f"compiling the {job.about} (once; about a minute)")
    started = time.time()
    _failure(folder).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        tree, staged = Path(temporary) / "build", Path(temporary) / "install"
        staged.mkdir()
        try:
            with _log(folder).open("w") as log:
                for command in _commands(tree, staged, operators, job.options):
                    _run(command, compiler, log.fileno(), say if verbose else _silent, _log(folder))
            if operators is not None:
                name = LIBRARIES["ops"]
                (staged / name).symlink_to(os.path.relpath(operators / name, folder))
            if not (staged / job.library).is_file():
                raise SetupError(f"building the {job.about} made no {job.library}; the log is {_log(folder)}")
        except SetupError as error:
            _failure(folder).write_text(str(error))
            raise
        facts = {**job.facts, "torch": torch_build(), "compiler": compiler.version, "isa": isa_level()}
        (staged / _MARK).write_text(json.dumps(facts, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # of an incomplete build; nobody else holds the lock
        os.replace(staged, folder)
    say(f"compiled the {job.about} in {time.time() - started:.0f} s")


def _commands(tree: Path, staged: Path, operators: Path | None, options: tuple[str, ...]) -> list[list[str]]:
    """Command lines of the three steps."""
    cmake, ninja = _tool("cmake"), _tool("ninja")
    configure = [
        cmake, "-S", str(source_dir()), "-B", str(tree), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", f"-DDPSIM_ISA={isa_level()}", *options,
    ]  # fmt: skip
    if operators is not None:
        configure.append(f"-DDPSIM_OPS_LIBRARY={operators / LIBRARIES['ops']}")
    jobs = str(min(os.cpu_count() or 1, 4))
    return [
        configure,
        [cmake, "--build", str(tree), "--parallel", jobs],
        [cmake, "--install", str(tree), "--prefix", str(staged)],
    ]


def _run(command: list[str], compiler: Compiler, log: int, say: Progress, log_path: Path) -> None:
    """Run one step; its output goes to the log, line by line to `say`, and in part into the error."""
    environment = {**os.environ, "CXX": " ".join(compiler.command)}
    tail: list[str] = []
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
        )
    except OSError as error:
        raise SetupError(f"{command[0]} does not run ({error.strerror}); reinstall the package it is from") from None
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            os.write(log, line.encode())
            say(line.rstrip())
            tail.append(line.strip())
    if process.returncode != 0:
        raise SetupError(f"building native code failed: {_first_error(tail)}; the whole log is {log_path}")


def _first_error(lines: list[str]) -> str:
    """Line of a build's output that says what went wrong (CMake puts the reason below its headline)."""
    for number, line in enumerate(lines):
        if "CMake Error" in line:
            return " ".join(part for part in lines[number : number + 3] if part)
        if "error:" in line or "undefined reference" in line:
            return line
    return lines[-1] if lines else "no output"


def _tool(name: str) -> str:
    """Path of cmake or ninja: from its PyPI package, which need not be on the PATH, else from the PATH."""
    try:
        if name == "cmake":
            import cmake

            folder = cmake.CMAKE_BIN_DIR
        else:
            import ninja

            folder = ninja.BIN_DIR
    except (ImportError, AssertionError):
        folder = ""
    path = shutil.which(name, path=folder) if folder else None
    path = path or shutil.which(name)
    if path is None:
        raise SetupError(f"{name} is missing; install it with: pip install {name}")
    return path


def _silent(line: str) -> None:
    """Say nothing."""


def _to_stderr(line: str) -> None:
    print(f"dpsim: {line}", file=sys.stderr, flush=True)
