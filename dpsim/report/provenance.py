"""With what a run was made: versions, machine and digests as blocks of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpsim.report.blocks import Table

_ALL = 2000


def provenance_tables(manifest: Mapping[str, Any]) -> list[Table]:
    """Versions, machine and digests of everything, as tables."""
    tables = [
        Table("Versions", ("package", "version"), _pairs(_versions(manifest)), text=(1,)),
        Table("Machine", ("", ""), _pairs(manifest.get("host") or {}), text=(1,)),
        Table("Workflow and seeds", ("", ""), _pairs(_workflow(manifest)), text=(1,)),
        Table("Digests of results", ("result", "key or content digest"), _digests(manifest), text=(1,), limit=_ALL),
    ]
    return [table for table in tables if table.rows]


def _versions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    own = manifest.get("dpsim") or {}
    return {"dpsim": own.get("version"), "dpsim commit": own.get("git"), **(manifest.get("packages") or {})}


def _workflow(manifest: Mapping[str, Any]) -> dict[str, Any]:
    workflow = manifest.get("workflow") or {}
    seeds = {f"seed of {name}": value for name, value in (manifest.get("seeds") or {}).items()}
    env = {f"${name}": value for name, value in _as_mapping(manifest.get("env")).items()}
    return {"workflow": workflow.get("path"), "workflow digest": workflow.get("digest"), **seeds, **env}


def _as_mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    return dict.fromkeys(value, "used") if isinstance(value, list | tuple) else {}


def _digests(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, record in (manifest.get("stages") or {}).items():
        if record.get("key"):
            rows.append((f"{name} (key)", str(record["key"])))
        rows += [(f"{name}.{output}", _digest_text(value)) for output, value in (record.get("outputs") or {}).items()]
    return rows


def _digest_text(value: Any) -> str:
    return str(value.get("digest", value)) if isinstance(value, Mapping) else str(value)


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, value in values.items():
        if value is None or value == [] or value == "":
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        rows.append((str(name), str(value)))
    return rows
