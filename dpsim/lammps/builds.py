"""Builds of the plugin on request: for the LAMMPS of this environment, or for one that the user built from source."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dpsim.errors import SetupError
from dpsim.native.build import Progress, build_dir_if_ready, cache_dir, ensure, library
from dpsim.native.identity import base_key, compiler_key, find_compiler, isa_level, source_dir


def build_for_package(*, force: bool = False, verbose: bool = False, progress: Progress | None = None) -> Path:
    """Folder with ``dpsimplugin.so`` for the LAMMPS of this Python environment.

    Parameters
    ----------
    force
        Build again.
    verbose, progress
        As in `dpsim.native.build.ensure`.

    Raises
    ------
    SetupError
        As in `dpsim.native.build.ensure`.
    """
    old = build_dir_if_ready("plugin")
    if force and old is not None:
        shutil.rmtree(old)  # running programs keep what they have mapped
    return ensure("plugin", verbose=verbose, progress=progress)


def build_for_source(
    source: Path,
    *,
    mpicxx: str = "mpicxx",
    definitions: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Folder with ``dpsimplugin.so`` for a LAMMPS source tree, built if it is not there yet.

    Parameters
    ----------
    source
        The LAMMPS source tree, or its folder ``src``.
    mpicxx
        MPI compiler that LAMMPS was built with.
    definitions
        Definitions LAMMPS was compiled with, for example ``LAMMPS_BIGBIG``; by default ``LAMMPS_SMALLBIG``.
    force
        Build again.
    progress
        Receives lines about the build.

    Raises
    ------
    SetupError
        If the folder is no LAMMPS source, the MPI compiler is missing, or the build fails (with its log).
    """
    source = _headers(source)
    compiler = shutil.which(mpicxx)
    if compiler is None:
        raise SetupError(f"the MPI compiler {mpicxx} is not on the PATH; give the one of your LAMMPS with --mpicxx")
    operators = ensure("ops", progress=progress)
    folder = cache_dir() / f"plugin-source-{_key(source, compiler, definitions)}"
    if folder.is_dir() and not force:
        return folder
    if progress:
        progress(f"compiling the LAMMPS plugin for {source} (about a minute)")
    log = folder.with_name(folder.name + ".log")
    with tempfile.TemporaryDirectory(prefix=".plugin-source-", dir=cache_dir()) as name:
        tree, staged = Path(name) / "build", Path(name) / "install"
        cmake = _tool("cmake")
        configure = [
            "-S", str(source_dir()), "-B", str(tree), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", f"-DDPSIM_ISA={isa_level()}",
            f"-DDPSIM_OPS_LIBRARY={library('ops', operators)}", f"-DLAMMPS_SOURCE_DIR={source}",
            f"-DMPI_CXX_COMPILER={compiler}",
        ]  # fmt: skip
        if definitions:
            configure.append(f"-DLAMMPS_DEFS={';'.join(definitions)}")
        log.unlink(missing_ok=True)
        for step in (
            configure,
            ["--build", str(tree), "--parallel", "2"],
            ["--install", str(tree), "--prefix", str(staged)],
        ):
            _run([cmake, *step], log)
        (staged / library("ops", operators).name).symlink_to(library("ops", operators))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
    return folder


def _headers(source: Path) -> Path:
    for folder in (source, source / "src"):
        if (folder / "pair.h").is_file() and (folder / "version.h").is_file():
            return folder.resolve()
    raise SetupError(f"{source} is no LAMMPS source tree (no src/pair.h and src/version.h); give its top folder")


def _key(source: Path, mpicxx: str, definitions: Sequence[str]) -> str:
    digest = hashlib.sha256()
    facts = [base_key("plugin"), compiler_key(find_compiler()), str(source), mpicxx, *definitions]
    digest.update("\0".join([*facts, (source / "version.h").read_text()]).encode())
    return digest.hexdigest()[:16]


def _tool(name: str) -> str:
    """Path of cmake or ninja, from its Python package or from the PATH."""
    folder = ""
    with contextlib.suppress(ImportError):
        module = importlib.import_module(name)
        folder = str(getattr(module, "CMAKE_BIN_DIR" if name == "cmake" else "BIN_DIR"))
    found = (shutil.which(name, path=folder) if folder else None) or shutil.which(name)
    if found is None:
        raise SetupError(f"{name} is missing; install it with: pip install {name}")
    return found


def _run(command: list[str], log: Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with log.open("a") as file:
        file.write(done.stdout)
    if done.returncode != 0:
        lines = done.stdout.splitlines()
        first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise SetupError(f"building the plugin failed: {first.strip()}; the whole log is {log}")
