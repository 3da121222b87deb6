"""``${vars.X}``, ``${env.X}`` and ``${matrix.X}``: names are replaced by values, nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsim.workflow.language.budget import MAX_VALUES, TOO_MUCH, Budget, TooMuch
from dpsim.workflow.language.problems import Collector, Path, closest

_PATTERN = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}|(\$\{)")
_NAME = re.compile(r"\s*(vars|env|matrix)\.([A-Za-z_][A-Za-z0-9_-]*)\s*")


@dataclass
class Scope:
    """What the names stand for; a table that is None leaves its ``${...}`` as they are."""

    variables: dict[str, Any] | None = None
    environment: Mapping[str, str] | None = None
    matrix: Mapping[str, Any] | None = None
    used: dict[str, str] = field(default_factory=dict)
    """Receives the environment variables that were used."""


class _Unknown(Exception):
    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion


def fill(value: Any, scope: Scope, collector: Collector, path: Path) -> Any:
    """Return a value with its ``${...}`` replaced.

    A text that is nothing but one ``${...}`` becomes the value itself with its type; inside of a longer text
    the value is written out. Problems are gathered in `collector`.
    """
    collector.spent.values += 1
    if collector.spent.values > MAX_VALUES:
        collector.add("E103", path, TOO_MUCH)
        collector.check()
    if isinstance(value, dict):
        return {key: fill(item, scope, collector, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, scope, collector, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return _fill_text(value, scope, collector.spent)
    except TooMuch as error:
        collector.add("E103", path, str(error))
        collector.check()
        raise
    except _Unknown as error:
        collector.add("E210", path, str(error), suggestion=error.suggestion)
        return value


def axes_in(value: Any) -> set[str]:
    """Return the axes of a matrix that a value names."""
    if isinstance(value, dict):
        return set().union(*map(axes_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(axes_in, value))
    if not isinstance(value, str) or "${" not in value:
        return set()
    found = (_NAME.fullmatch(match[2]) for match in _PATTERN.finditer(value) if match[2] is not None)
    return {match[2] for match in found if match is not None and match[1] == "matrix"}


def _fill_text(text: str, scope: Scope, spent: Budget) -> Any:
    whole = _PATTERN.fullmatch(text)
    if whole and whole[2] is not None:
        found = _look_up(whole[0], whole[2], scope)
        spent.spend(found)
        return found

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            # The last pass (the one with a matrix) takes the doubled dollar away.
            return "${" if scope.matrix is not None else match[0]
        if match[3]:
            raise _Unknown("'${' is not closed by '}'; write '$${' for a dollar and a brace")
        found = _look_up(match[0], match[2], scope)
        if isinstance(found, dict | list):
            raise _Unknown(
                f"{match[0]} is a {'list' if isinstance(found, list) else 'mapping'} and cannot stand inside of a text"
            )
        written = as_text(found)
        spent.spend(written)
        return written

    return _PATTERN.sub(replace, text)


def _look_up(written: str, name: str, scope: Scope) -> Any:
    match = _NAME.fullmatch(name)
    if match is None:
        raise _Unknown(f"{written} is not known; write ${{vars.X}}, ${{env.X}} or ${{matrix.X}} (no expressions)")
    kind, key = match[1], match[2]
    table: Mapping[str, Any] | None = {"vars": scope.variables, "env": scope.environment, "matrix": scope.matrix}[kind]
    if table is None:
        return written
    if key not in table:
        where = {"vars": "'vars:'", "env": "the environment", "matrix": "the 'matrix:' of this stage"}[kind]
        guess = "" if kind == "env" else closest(key, table)
        raise _Unknown(f"{written}: there is no {key!r} in {where}", f"${{{kind}.{guess}}}" if guess else "")
    if kind == "env":
        scope.used[key] = table[key]
    return table[key]


def as_text(value: Any) -> str:
    """Return a scalar as it would be written in the file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
