"""The part of a report about what was found in a data set."""

from __future__ import annotations

from typing import Any

from dpsim.report.artifacts import read_object
from dpsim.report.blocks import Block, Section, Table, number
from dpsim.report.figures import Canvas

WORDS = {
    "nan": "numbers that are none",
    "bad_cell": "broken cell",
    "missing_type": "element outside of the type map",
    "missing_label": "missing label",
    "duplicate": "the same structure twice",
    "near_duplicate": "nearly the same structure twice",
    "too_close": "atoms too close",
    "force_outlier": "force far from the others",
    "energy_outlier": "energy far from the others",
}


def inspect_block(section: Section, canvas: Canvas) -> Block | None:
    """What stands out in a data set, from ``inspect.json``."""
    found = read_object(section.out / "inspect.json")
    if not found:
        return None
    problems: list[dict[str, Any]] = found.get("problems") or []
    frames = sum(int((part or {}).get("frames") or 0) for part in (found.get("parts") or {}).values())
    rows: list[tuple[str, ...]] = [
        (_words(str(p.get("kind"))), number(len(p.get("frames") or [])), str(p.get("message") or "")) for p in problems
    ]
    header = ("what", "frames", "first or worst case")
    tables = [Table("What stands out", header, rows, text=(2,))] if rows else []
    removed: dict[str, Any] = {k: v for k, v in (found.get("removed") or {}).items() if k != "total"}
    if removed:
        left = (found.get("kept") or {}).items()
        lines: list[tuple[str, ...]] = [(_words(flaw), number(count)) for flaw, count in removed.items()]
        lines += [("left" if part == "." else f"left in {part}", number(count)) for part, count in left]
        tables.append(Table("Taken out", ("what", "frames"), lines))
    facts = [("frames", number(frames)), ("kinds of problems", number(len(problems)))]
    if removed:
        facts.append(("frames taken out", number(sum(int(count) for count in removed.values()))))
    if found.get("largest_force") is not None:
        facts.append(("largest force", f"{number(found['largest_force'])} eV/Å"))
    lead = "Broken values, missing labels, duplicates and leaks between parts, collisions, outliers."
    summary = {str(p.get("kind")): len(p.get("frames") or []) for p in problems}
    anchor = "".join(c if c.isalnum() else "-" for c in f"inspect-{section.name}")
    return Block(anchor, "Inspection", section.name, lead, facts, tables=tables, summary=summary)


def _words(kind: str) -> str:
    """Say what a kind of problem is."""
    if kind in WORDS:
        return WORDS[kind]
    near, _, parts = kind.rpartition("duplicate_")
    if not parts or near not in ("", "near_"):
        return kind
    return f"{'nearly ' if near else ''}the same structure in {parts.replace('_', ' and ')}"
