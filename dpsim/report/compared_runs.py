"""Several runs side by side on a page of their own: their stages, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsim.data.files import write_text
from dpsim.report.blocks import Block, Section, Table
from dpsim.report.build import render
from dpsim.report.metrics import Row, percent, rows, stage_metrics, table


@dataclass(frozen=True)
class ComparedRun:
    """One run of several."""

    label: str
    sections: Mapping[str, Section]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The workflow with all defaults."""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage."""


@dataclass(frozen=True)
class Comparison:
    """What several runs have in common and where they differ."""

    labels: list[str]
    stages: dict[str, list[Row]]
    settings: list[tuple[str, tuple[str, ...]]]
    versions: list[tuple[str, tuple[str, ...]]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "runs": self.labels,
            "stages": {
                stage: [
                    {"name": row.name, "unit": row.unit, "values": list(row.values), "change": row.change()}
                    for row in found
                ]
                for stage, found in self.stages.items()
            },
            "settings": [{"name": name, "values": list(values)} for name, values in self.settings],
            "versions": [{"name": name, "values": list(values)} for name, values in self.versions],
        }

    def text(self) -> str:
        """Return it for a terminal."""
        blocks = []
        for stage, found in self.stages.items():
            cells = [
                [f"  {row.name}", row.unit, *[plain(v) for v in row.values], percent(row.change())] for row in found
            ]
            blocks.append([[stage, "", *self.labels, "change"], *cells])
        for title, lines in (("settings that differ", self.settings), ("versions that differ", self.versions)):
            if lines:
                blocks.append([[title, "", *self.labels, ""], *[[f"  {n}", "", *map(_short, v), ""] for n, v in lines]])
        widths = [max(len(row[i]) for block in blocks for row in block) for i in range(len(self.labels) + 3)]
        return "\n\n".join(
            "\n".join(
                "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
                .rstrip()
                for row in block
            )
            for block in blocks
        )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def plain(value: float | None) -> str:
    """Write a number for a terminal."""
    return "–" if value is None else f"{value:.5g}"


def compare_runs(runs: Sequence[ComparedRun]) -> Comparison:
    """Lay runs side by side: numbers of stages of the same name, settings and versions that differ."""
    names = dict.fromkeys(name for run in runs for name in run.sections)
    stages = {}
    for name in names:
        columns: list[dict[str, float]] = []
        for run in runs:
            metrics = stage_metrics(run.sections[name]) if name in run.sections else {}
            seconds = {"wall time": run.seconds[name]} if name in run.seconds and metrics else {}
            columns.append({**metrics, **seconds})
        if found := [row if row.name != "wall time" else Row(row.name, "s", row.values) for row in rows(columns)]:
            stages[name] = found
    return Comparison(
        [run.label for run in runs],
        stages,
        _settings([run.settings for run in runs]),
        differing([dict(run.versions) for run in runs]),
    )


def _settings(all_settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the settings that differ; of a stage that some run does not have, only that."""
    stages = [settings.get("stages") or {} for settings in all_settings]
    common = {name for name in stages[0] if all(name in other for other in stages)}
    columns = []
    for settings, declared in zip(all_settings, stages, strict=True):
        top = _flat({key: value for key, value in settings.items() if key != "stages"}, "")
        alone = {name: "declared" for name in declared if name not in common}
        columns.append(
            {**top, **_flat({name: value for name, value in declared.items() if name in common}, ""), **alone}
        )
    return differing(columns)


def differing(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the names whose values are not the same everywhere, with the values, ``–`` where there is none."""
    names = dict.fromkeys(name for column in columns for name in column)
    found = [(name, tuple(str(column.get(name, "–")) for column in columns)) for name in names]
    return [(name, values) for name, values in found if len(set(values)) > 1]


def _flat(value: Any, name: str) -> dict[str, str]:
    """Return the values of nested settings by dotted names, without digests and free text."""
    if isinstance(value, Mapping):
        return {
            inner: text
            for key, item in value.items()
            if not str(key).startswith("x-") and key not in ("notes", "name")
            for inner, text in _flat(item, f"{name}.{key}" if name else str(key)).items()
        }
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return _flat({str(index): item for index, item in enumerate(value)}, name)
    return {name: str(value)}


def write_page(found: Comparison, path: Path) -> Path:
    """Write a comparison as one HTML page without anything from outside."""
    blocks = [
        Block(f"stage-{index}", "Stage", stage, tables=[table("", found.labels, lines, change=len(found.labels) == 2)])
        for index, (stage, lines) in enumerate(found.stages.items())
    ]
    for anchor, title, lines in (
        ("settings", "Settings that differ", found.settings),
        ("versions", "Versions that differ", found.versions),
    ):
        if lines:
            cells = [(name, *values) for name, values in lines]
            words = tuple(range(1, len(found.labels) + 1))
            blocks.insert(0, Block(anchor, title, "", tables=[Table("", ("", *found.labels), cells, words, 200)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(blocks, [], {"name": " and ".join(found.labels)}))
    return path
