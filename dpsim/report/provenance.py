"""What ran, when and with what: the manifest of a run as blocks of a report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpsim.report.blocks import Section, Share, Table, duration, shares


@dataclass(frozen=True)
class StageState:
    """One chip of the pipeline."""

    name: str
    type: str
    state: str
    tone: str
    seconds: str
    anchor: str | None


_ALL = 2000
_TONES = {"done": "good", "cached": "good", "complete": "good", "finished": "good", "running": "busy", "failed": "bad"}


def stage_seconds(record: Mapping[str, Any]) -> float | None:
    """Wall time of all attempts of a stage in s; None if none has ended."""
    spans = []
    for attempt in record.get("attempts") or []:
        begin, end = _moment(attempt.get("start")), _moment(attempt.get("end"))
        if begin is not None and end is not None:
            spans.append(max(0.0, end - begin))
    return sum(spans) if spans else None


def _moment(value: Any) -> float | None:
    """Seconds since 1970 of a number or an ISO 8601 time."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None


def pipeline(manifest: Mapping[str, Any], sections: Sequence[Section], anchors: Mapping[str, str]) -> list[StageState]:
    """Stages in the order of the manifest with their states; stages shown without a manifest count as done."""
    types = {section.name: section.type for section in sections}
    records: Mapping[str, Any] = manifest.get("stages") or {section.name: {"state": "done"} for section in sections}
    result = []
    for name, record in records.items():
        state = str(record.get("state", "unknown"))
        seconds = stage_seconds(record)
        kind = types.get(name) or str(record.get("type", ""))
        result.append(
            StageState(
                name,
                kind,
                state,
                _TONES.get(state, "idle"),
                "" if seconds is None else duration(seconds),
                anchors.get(name),
            )
        )
    return result


def time_shares(manifest: Mapping[str, Any]) -> tuple[list[Share], float | None]:
    """Parts of the wall time that the stages took, and their sum in s."""
    seconds = {name: s for name, r in (manifest.get("stages") or {}).items() if (s := stage_seconds(r)) is not None}
    total = sum(seconds.values())
    return shares(seconds, {name: duration(value) for name, value in seconds.items()}), total if seconds else None


def started(manifest: Mapping[str, Any]) -> str | None:
    """When the run began, for people."""
    value = manifest.get("started")
    moment = _moment(value)
    if moment is None:
        moments = [
            m
            for r in (manifest.get("stages") or {}).values()
            for a in r.get("attempts") or []
            if (m := _moment(a.get("start"))) is not None
        ]
        moment = min(moments, default=None)
        return None if moment is None else f"{datetime.datetime.fromtimestamp(moment):%d %B %Y, %H:%M}"
    if isinstance(value, str):
        return f"{datetime.datetime.fromisoformat(value):%d %B %Y, %H:%M}"
    return f"{datetime.datetime.fromtimestamp(moment):%d %B %Y, %H:%M}"


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
