"""What ran and when: the stages of a manifest as the chips and the bar at the top of a report.

A loop or a matrix makes many tasks of few stages, which are shown together: those of an iteration, and the points and
models of a stage.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dpsim.report.blocks import Section, Share, duration, shares

_TONES: Final = {
    "done": "good", "cached": "good", "complete": "good", "finished": "good", "running": "busy", "failed": "bad",
}  # fmt: skip
_ITERATION: Final = re.compile(r"(?P<loop>.+)\.(?P<number>\d{2,3})\.(?P<inner>[^.].*)")
_MAX_SHARES: Final = 8
"""Parts of the bar; what took least time is shown together."""

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class StageState:
    """One chip of the pipeline."""

    name: str
    type: str
    state: str
    tone: str
    seconds: str
    anchor: str | None


def pipeline(manifest: Mapping[str, Any], sections: Sequence[Section], anchors: Mapping[str, str]) -> list[StageState]:
    """Stages in the order of the manifest with their states; stages shown without a manifest count as done."""
    types = {section.name: section.type for section in sections}
    records: Records = manifest.get("stages") or {section.name: {"state": "done"} for section in sections}
    groups: dict[str, list[str]] = {}
    for name in records:
        members = groups.setdefault(_chip(name, records), [])
        if name not in members:
            members.append(name)
        if (found := _iteration(name, records)) is not None:
            groups.pop(found["loop"], None)  # its end comes after all iterations
            groups[found["loop"]] = [found["loop"]]
    return [_state(title, names, records, types, anchors) for title, names in groups.items()]


def _state(
    title: str, names: Sequence[str], records: Records, types: Mapping[str, str], anchors: Mapping[str, str]
) -> StageState:
    first = names[0]
    iteration = _iteration(first, records)
    kind = types.get(first) or str(records[first].get("type", ""))
    if iteration is not None:
        kind = f"{len(names)} stages" if len(names) > 1 else "1 stage"
    elif len(names) > 1:
        kind = f"{kind} × {len(names)}".strip()
    elif title != first:
        title = first
    state = _worst(str(records[name].get("state", "unknown")) for name in names)
    spans = [span for name in names for span in _spans(records[name])]
    anchor = next((anchors[name] for name in names if name in anchors), None)
    if anchor is None and iteration is not None:
        anchor = anchors.get(iteration["loop"])
    seconds = duration(_union(spans)) if spans else ""
    return StageState(title, kind, state, _TONES.get(state, "idle"), seconds, anchor)


def _chip(name: str, records: Records) -> str:
    """Return the chip that a task belongs to: its iteration, or its stage."""
    found = _iteration(name, records)
    return f"{found['loop']} {int(found['number'])}" if found is not None else name.partition("@")[0]


def _iteration(name: str, records: Records) -> re.Match[str] | None:
    """Match the name of a task inside of a loop."""
    found = _ITERATION.fullmatch(name)
    return found if found is not None and found["loop"] in records else None


def _worst(states: Iterable[str]) -> str:
    """Return the state that tells most of several."""
    found = list(dict.fromkeys(states))
    for state in ("failed", "running", "interrupted", "blocked", "waiting"):
        if state in found:
            return state
    return "done" if set(found) == {"done", "cached"} else found[0]


# --- time -------------------------------------------------------------------------------------------------------


def time_shares(manifest: Mapping[str, Any]) -> tuple[list[Share], float | None]:
    """Parts of the time that the stages took, and the time in which any of them worked, in s."""
    records: Records = manifest.get("stages") or {}
    seconds: dict[str, float] = {}
    everything: list[tuple[float, float]] = []
    for name, record in records.items():
        if spans := _spans(record):
            iteration = _iteration(name, records)
            stage = f"{iteration['loop']}.{iteration['inner']}" if iteration is not None else name
            stage = stage.partition("@")[0]
            seconds[stage] = seconds.get(stage, 0.0) + sum(end - begin for begin, end in spans)
            everything += spans
    if len(seconds) > _MAX_SHARES:
        kept = sorted(seconds, key=lambda stage: -seconds[stage])[: _MAX_SHARES - 1]
        rest = sum(value for stage, value in seconds.items() if stage not in kept)
        seconds = {stage: value for stage, value in seconds.items() if stage in kept} | {"others": rest}
    texts = {name: duration(value) for name, value in seconds.items()}
    return shares(seconds, texts), _union(everything) if everything else None


def _spans(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return beginning and end of all attempts of a stage that have ended, in s."""
    found = []
    for attempt in record.get("attempts") or []:
        begin, end = _moment(attempt.get("start")), _moment(attempt.get("end"))
        if begin is not None and end is not None:
            found.append((begin, max(begin, end)))
    return found


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that is in any of some spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _moment(value: Any) -> float | None:
    """Seconds since 1970 of a number or an ISO 8601 time."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None


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
