"""Builds of the plugin on request: for the LAMMPS of this environment, or for one that the user built from source."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dpsim.errors import SetupError
from dpsim.lammps.programs import Program, inspect, mpi_library, number
from dpsim.native.build import Job, Progress, build_at, build_dir_if_ready, cache_dir, ensure, facts_of, library
from dpsim.native.identity import compiler_key, find_compiler, isa_level, sources, torch_build

OLDEST = "23 Jun 2022"
"""Before, LAMMPS's styles asked for neighbour lists in another way."""
_PREFIX = "plugin-source-"


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
    lmp: Path | None = None,
    mpicxx: str = "mpicxx",
    definitions: Sequence[str] = (),
    force: bool = False,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Folder with ``dpsimplugin.so`` for a LAMMPS source tree, built if it is not there yet.

    Parameters
    ----------
    source
        The LAMMPS source tree, or its folder ``src``.
    lmp
        The executable that was made of it: its integer sizes are taken, its version and its MPI must be those of
        the plugin.
    mpicxx
        MPI compiler that LAMMPS was built with.
    definitions
        Definitions LAMMPS was compiled with; integer sizes are ``LAMMPS_SMALLBIG`` unless they or `lmp` say otherwise.
    force
        Build again.
    verbose, progress
        As in `dpsim.native.build.ensure`.

    Raises
    ------
    SetupError
        If the folder is no LAMMPS source, the MPI compiler is missing, `lmp` is another LAMMPS, or the build fails
        (with its log).
    """
    source = _headers(source)
    version = _version(source)
    program = None if lmp is None else _same_version(inspect(lmp), source, version)
    definitions = _with_sizes(definitions, program)
    mpi_compiler = shutil.which(mpicxx)
    if mpi_compiler is None:
        raise SetupError(f"the MPI compiler {mpicxx} is not on the PATH; give the one of your LAMMPS with --mpicxx")
    compiler = find_compiler()
    operators = ensure("ops", verbose=verbose, progress=progress)
    key = _digest([str(source), version, mpi_compiler, *definitions, _sources_key(), compiler_key(compiler)])
    folder = cache_dir() / f"{_PREFIX}{key}"
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    options = (
        f"-DLAMMPS_SOURCE_DIR={source}",
        f"-DMPI_CXX_COMPILER={mpi_compiler}",
        f"-DLAMMPS_DEFS={';'.join(definitions)}",
    )
    facts = {"target": "plugin-source", "lammps": version, "definitions": " ".join(definitions), "source": str(source),
             "mpicxx": mpi_compiler, "sources": _sources_key()}  # fmt: skip
    job = Job(f"LAMMPS plugin for {source}", library("plugin", folder).name, options, facts)
    build_at(folder, job, compiler, operators, progress or (lambda line: None), verbose=verbose)
    if program is not None:
        _check_mpi(folder, program, mpicxx)
    return folder


class SourceBuild(NamedTuple):
    """A plugin in the cache for a LAMMPS that the user built."""

    folder: Path
    reason: str
    """Why it cannot be used any more; empty if it can."""
    again: str
    """Command that builds it again."""


def find_source_build(program: Program) -> SourceBuild | None:
    """The newest plugin for a LAMMPS executable, one that can be used before one that cannot."""
    found = []
    for mark in cache_dir().glob(f"{_PREFIX}*/build.json"):
        facts = facts_of(mark.parent)
        if facts.get("lammps") != program.version or program.sizes not in facts.get("definitions", "").split():
            continue
        if (reason := _outdated(mark.parent, facts, program)) is not None:
            found.append((not reason, mark.stat().st_mtime, SourceBuild(mark.parent, reason, _command(facts, program))))
    return max(found)[2] if found else None


def _outdated(folder: Path, facts: dict[str, str], program: Program) -> str | None:
    """Why a build is of no use, empty if it is of use, None if it belongs to another LAMMPS."""
    theirs, its = mpi_library(program.path), mpi_library(library("plugin", folder))
    if theirs and its and theirs != its:
        return None
    if facts.get("torch") != torch_build():
        return f"was built for torch {facts.get('torch')}, here is torch {torch_build()}"
    if facts.get("sources") != _sources_key():
        return "was built by another version of dpsim"
    return "" if (folder / "libdpsim_ops.so").is_file() else "has lost its operators (libdpsim_ops.so)"


def _command(facts: dict[str, str], program: Program) -> str:
    return (
        f"dpsim lammps build --lammps-source {facts.get('source', 'DIR')} --lmp {program.path} "
        f"--mpicxx {facts.get('mpicxx', 'mpicxx')} --force"
    )


def _headers(source: Path) -> Path:
    for folder in (source, source / "src"):
        if (folder / "pair.h").is_file() and (folder / "version.h").is_file():
            return folder.resolve()
    raise SetupError(f"{source} is no LAMMPS source tree (no src/pair.h and src/version.h); give its top folder")


def _version(source: Path) -> str:
    found = re.search(r'LAMMPS_VERSION\s+"([^"]+)"', (source / "version.h").read_text())
    if found is None:
        raise SetupError(f"{source / 'version.h'} names no version; give the source tree of a released LAMMPS")
    if number(found.group(1)) < number(OLDEST):
        raise SetupError(f"{source} is LAMMPS {found.group(1)}; the plugin needs {OLDEST} or later")
    return found.group(1)


def _same_version(program: Program, source: Path, version: str) -> Program:
    if program.version != version:
        raise SetupError(
            f"{program.path} is LAMMPS {program.version}, {source} is {version}; give the tree it was made of"
        )
    if "PLUGIN" not in program.packages:
        raise SetupError(f"{program.path} has no package PLUGIN and cannot load any; build it with -DPKG_PLUGIN=on")
    return program


_SIZES = ("LAMMPS_SMALLBIG", "LAMMPS_BIGBIG", "LAMMPS_SMALLSMALL")


def _with_sizes(definitions: Sequence[str], program: Program | None) -> list[str]:
    """Definitions with exactly one for the integer sizes, which is first."""
    given = [name for name in definitions if name in _SIZES]
    sizes = program.sizes if program is not None else given[0] if given else _SIZES[0]
    if any(name != sizes for name in given):
        raise SetupError(f"the integer sizes are {sizes}, --define says {' and '.join(given)}; leave it out")
    return [sizes, *(name for name in definitions if name not in _SIZES)]


def _check_mpi(folder: Path, program: Program, mpicxx: str) -> None:
    theirs, its = mpi_library(program.path), mpi_library(library("plugin", folder))
    if theirs and its and theirs != its:
        raise SetupError(
            f"{mpicxx} links {its} but {program.path} runs on {theirs} ({program.mpi}); give the mpicxx that "
            "LAMMPS was built with by --mpicxx"
        )


def _sources_key() -> str:
    """Of the plugin's sources and what they are compiled for, apart from LAMMPS."""
    parts = [path.name.encode() + b"\0" + path.read_bytes() for path in sources("plugin")]
    return _digest([*parts, torch_build(), isa_level()])


def _digest(parts: Sequence[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return digest.hexdigest()[:16]
