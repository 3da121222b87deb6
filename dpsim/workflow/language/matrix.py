"""``matrix:``: one declared stage becomes one task for every combination of values."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from dpsim.workflow.language.budget import MAX_TASKS
from dpsim.workflow.language.interpolate import as_text
from dpsim.workflow.language.problems import Collector, Path

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST = 200
"""Bytes of a task's name, which is that of a folder."""


def points(matrix: Any, collector: Collector, path: Path) -> list[dict[str, Any]]:
    """Return the combinations of a matrix, the last axis running fastest.

    Without a matrix there is one empty point; a wrong matrix is reported and gives none.
    """
    if matrix is None:
        return [{}]
    if not isinstance(matrix, dict) or not matrix:
        collector.add("E211", path, "expected a mapping of names to lists of values")
        return []
    total = 1
    for axis, values in matrix.items():
        inner = (*path, axis)
        if not _AXIS.fullmatch(axis):
            collector.add("E211", inner, f"{axis!r} is not a name: use letters, digits, '_' and '-'", key=True)
            return []
        if not isinstance(values, list) or not values:
            collector.add("E211", inner, f"{axis!r} needs a list of at least one value")
            return []
        written = [json.dumps(value, sort_keys=True, default=str) for value in values]
        for index, text in enumerate(written):
            if text in written[:index]:
                collector.add("E211", (*inner, index), f"{values[index]!r} stands twice in {axis!r}")
                return []
        total *= len(values)
    collector.spent.tasks += total
    if collector.spent.tasks > MAX_TASKS:
        collector.add("E211", path, f"{total:,} combinations; at most {MAX_TASKS:,} tasks are allowed in all of a file")
        return []
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


def names(stage: str, all_points: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the name of the task of each point, such as ``melt@T=300,P=1_bar``."""
    seen: set[str] = set()
    for number, point in enumerate(all_points):
        name = f"{stage}@{','.join(f'{axis}={_slug(value)}' for axis, value in point.items())}" if point else stage
        if len(name.encode()) > _LONGEST:
            name = f"{name.encode()[:_LONGEST].decode(errors='ignore')}+{number}"
        if name in seen:
            name = f"{name}+{number}"
        seen.add(name)
        yield name


def _slug(value: Any) -> str:
    text = as_text(value) if not isinstance(value, dict | list) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_.")[:40] or "_"
