"""A workflow file made whole: includes merged, overrides applied, ``${vars.X}`` and ``${env.X}`` filled in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from dpsim.workflow.language.interpolate import Scope, fill
from dpsim.workflow.language.problems import Collector, InvalidWorkflow, Path, Place, Problem, closest
from dpsim.workflow.language.yaml_loader import Loaded, load_file, load_text

MAX_INCLUDES = 32


@dataclass
class Document:
    """The plain values of a workflow, still to be validated."""

    path: FilePath
    """The workflow file; paths in it are relative to its folder."""
    data: dict[str, Any]
    collector: Collector
    files: tuple[FilePath, ...] = ()
    """The workflow file and all it includes."""
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables that were used, with their values."""


def read_document(
    path: FilePath,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Document:
    """Read a workflow file.

    Parameters
    ----------
    path
        The workflow file.
    profile
        Name of an entry of ``profiles:`` whose overrides are applied.
    overrides
        ``path=value`` texts, as after ``--set``; applied last.
    environment
        Where ``${env.X}`` is looked up, by default the process environment.

    Raises
    ------
    InvalidWorkflow
        If the text cannot be read; problems with keys and values are left in the `Document.collector`.
    """
    loaded, files = _with_includes(path)
    collector = loaded.collector()
    if not isinstance(loaded.data, dict):
        collector.add("E201", (), "the file is empty or not a mapping; its first key must be 'dpsim: 1'")
        collector.check()
    data = _without_notes(loaded.data)
    _check_version(data, collector)
    _apply_profile(data, profile, loaded, collector)
    for text in overrides:
        apply_override(data, text, loaded, collector)
    document = Document(path, data, collector, tuple(files), profile, tuple(overrides))
    _interpolate(document, os.environ if environment is None else environment)
    return document


def _without_notes(value: Any) -> Any:
    """Drop keys that begin with ``x-``."""
    if isinstance(value, dict):
        return {key: _without_notes(item) for key, item in value.items() if not key.startswith("x-")}
    if isinstance(value, list):
        return [_without_notes(item) for item in value]
    return value


def _check_version(data: dict[str, Any], collector: Collector) -> None:
    if next(iter(data), None) != "dpsim":
        first = next(iter(data), None)
        found = f", found {first!r}" if first is not None else ""
        place = collector.keys.get((first,)) if first is not None else None
        collector.add("E201", (), f"the first key must be 'dpsim: 1'{found}", place=place)
    elif data["dpsim"] != 1 or isinstance(data["dpsim"], bool):
        collector.add(
            "E202", ("dpsim",), f"language version {data['dpsim']!r} is not known; this dpsim reads version 1"
        )


# --- include ---------------------------------------------------------------------------------------------


def _with_includes(path: FilePath) -> tuple[Loaded, list[FilePath]]:
    files: list[FilePath] = []
    loaded = _include(path, (), files)
    return loaded, files


def _include(path: FilePath, chain: tuple[FilePath, ...], files: list[FilePath]) -> Loaded:
    loaded = load_file(path)
    files.append(path)
    names = loaded.data.pop("include", []) if isinstance(loaded.data, dict) else []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        _raise(loaded, "E205", ("include",), "expected a list of file names")
    for index, name in enumerate(names):
        place: Path = ("include", index)
        target = path.parent / name
        try:
            resolved, exists = target.resolve(), target.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
            reason = getattr(error, "strerror", None) or str(error)
            _raise(loaded, "E106", place, f"the included file {name[:80]!r} cannot be read: {reason.lower()}")
            raise
        if resolved in (*(p.resolve() for p in chain), path.resolve()):
            chained = " -> ".join(p.name for p in (*chain, path, target))
            _raise(loaded, "E108", place, f"files include each other in a circle: {chained}")
        if len(files) >= MAX_INCLUDES:
            _raise(loaded, "E103", place, f"more than {MAX_INCLUDES} files are included")
        if not exists:
            _raise(loaded, "E106", place, f"the included file {target} does not exist")
        other = _include(target, (*chain, path), files)
        if not isinstance(other.data, dict):
            _raise(loaded, "E205", place, f"the included file {target} is not a mapping")
        _merge(loaded, other)
    return loaded


def _raise(loaded: Loaded, code: str, path: Path, message: str) -> None:
    collector = loaded.collector()
    collector.add(code, path, message)
    collector.check()


def _merge(loaded: Loaded, other: Loaded) -> None:
    loaded.sources.update(other.sources)
    collector = loaded.collector()

    def into(mine: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
        for key, value in theirs.items():
            if key.startswith("x-"):
                continue  # notes, which each file may have for itself
            inner = (*path, key)
            if key not in mine:
                mine[key] = value
                for table, source in ((loaded.places, other.places), (loaded.keys, other.keys)):
                    table.update({p: q for p, q in source.items() if p[: len(inner)] == inner})
            elif isinstance(mine[key], dict) and isinstance(value, dict):
                into(mine[key], value, inner)
            elif mine[key] != value:
                message = f"{other.keys.get(inner)} gives {key!r} another value; remove one, or use --set"
                collector.add("E107", inner, message, key=True)

    into(loaded.data, other.data, ())
    collector.check()


# --- overrides -------------------------------------------------------------------------------------------


def _apply_profile(data: dict[str, Any], profile: str | None, loaded: Loaded, collector: Collector) -> None:
    if profile is None:
        return
    profiles = data.get("profiles")
    known = list(profiles) if isinstance(profiles, dict) else []
    if profile not in known:
        notes = [f"profiles of this file: {', '.join(known) or 'none'}"]
        message = f"there is no profile {profile!r}"
        collector.add("E213", ("profiles",), message, suggestion=closest(profile, known), notes=notes)
        return
    chosen = profiles[profile] if isinstance(profiles, dict) else None
    overrides = chosen.get("overrides") if isinstance(chosen, dict) else None
    for key, value in overrides.items() if isinstance(overrides, dict) else ():
        where = ("profiles", profile, "overrides", key)
        _set(data, key, value, loaded, collector, loaded.places.get(where), where)


def apply_override(data: dict[str, Any], text: str, loaded: Loaded, collector: Collector) -> None:
    """Apply one ``path=value`` text; what is wrong with it goes to the collector."""
    name = f"--set {text}"
    target, equals, value_text = text.partition("=")
    place = Place(name, 1, 1, len(text) + 1)
    if not equals or not target.strip():
        collector.problems.append(Problem("E109", f"--set {text}: write path=value, e.g. stages.model.steps=500"))
        return
    try:
        value = load_text(value_text, name)
    except InvalidWorkflow as error:
        message = f"--set {text}: the value is not valid YAML: {error.problems[0].message}"
        collector.problems.append(Problem("E109", message))
        return
    _set(data, target.strip(), _without_notes(value.data), loaded, collector, place, None)


def _set(
    data: dict[str, Any],
    target: str,
    value: Any,
    loaded: Loaded,
    collector: Collector,
    place: Place | None,
    where: Path | None,
) -> None:
    """Set the value at a dotted path; all but the last part must exist."""
    current: Any = data
    path: Path = ()
    parts = target.split(".")
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        key: str | int = part
        if isinstance(current, list) and part.isdigit() and int(part) < len(current):
            key = int(part)
        known = isinstance(current, dict) and (last or part in current)
        if not (known or isinstance(key, int)):
            choices = list(current) if isinstance(current, dict) else []
            inside = ".".join(parts[:position]) or "the file"
            message = f"cannot set {target!r}: there is no {part!r} in {inside}"
            problem = Problem(
                "E109", message, where or (), collector.place(where) if where else None, closest(part, choices)
            )
            collector.problems.append(problem)
            return
        path = (*path, key)
        if last:
            current[key] = value
        else:
            current = current[key]
    for table in (loaded.places, loaded.keys):
        for stale in [p for p in table if p[: len(path)] == path]:
            del table[stale]
    if place is not None:
        loaded.places[path] = loaded.keys[path] = place


# --- interpolation ---------------------------------------------------------------------------------------


def _interpolate(document: Document, environment: Mapping[str, str]) -> None:
    """Fill in vars and env everywhere; ``${matrix.X}`` is left to the stage it belongs to."""
    data, collector = document.data, document.collector
    variables = data.get("vars")
    if variables is not None and not isinstance(variables, dict):
        collector.add("E205", ("vars",), "expected a mapping of names to values")
        variables = {}
    filled: dict[str, Any] = {}
    scope = Scope(variables=filled, environment=environment, used=document.environment)
    for key, value in (variables or {}).items():
        # A variable may use those above it, so that there are no circles.
        filled[key] = fill(value, scope, collector, ("vars", key))
    if variables is not None:
        data["vars"] = filled
    for key, value in data.items():
        if key != "vars":
            data[key] = fill(value, scope, collector, (key,))
