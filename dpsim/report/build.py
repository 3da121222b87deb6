"""Build the report: every stage makes its block, the template lays them out, one file is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dpsim.data.files import write_json, write_text
from dpsim.errors import DataError
from dpsim.report.blocks import Block, Card, Section, duration
from dpsim.report.comparison import compare_block
from dpsim.report.dynamics import md_block
from dpsim.report.figures import Canvas
from dpsim.report.inspection import inspect_block
from dpsim.report.learning import loop_block, select_block
from dpsim.report.provenance import provenance_tables
from dpsim.report.solids import phonon_block, properties_block, relax_block
from dpsim.report.timeline import pipeline, started, time_shares
from dpsim.report.training import data_block, freeze_block, label_block, test_block, train_block

__all__ = ["MAX_BYTES", "Section", "build_report"]

Maker = Callable[[Section, Canvas], Block | None]
MAKERS: Mapping[str, Maker] = {
    "label": label_block, "convert": data_block, "train": train_block, "test": test_block, "freeze": freeze_block,
    "md": md_block, "inspect": inspect_block, "relax": relax_block, "phonon": phonon_block,
    "properties": properties_block, "select": select_block, "loop": loop_block,
}  # fmt: skip
MAX_BYTES = 2_000_000
"""The page stays below this, so that it can be sent by mail and opens at once."""
_RESOLUTIONS = (150, 100, 60)
_CARD_ORDER = (
    "MD ended early",
    "Force RMSE",
    "Energy RMSE",
    "Virial RMSE",
    "NVE energy drift",
    "RDF overlap",
    "Density",
    "Phonon error",
    "Elastic constants",
    "MD speed",
    "Training speed",
    "Freeze checks",
    "Loop",
)


def build_report(sections: Sequence[Section], output_dir: Path, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write ``index.html`` and ``summary.json``.

    Parameters
    ----------
    sections
        Stages to show, in order; one that left nothing to show is absent from the page.
    output_dir
        Folder to write into; made if it does not exist.
    manifest
        Of the run (name, versions, machine, states and times of stages, digests, citations).

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        If an output of a stage is damaged, or the page would be too large to send.
    """
    manifest = manifest or {}
    output_dir.mkdir(parents=True, exist_ok=True)
    for resolution in _RESOLUTIONS:
        blocks = make_blocks(sections, Canvas(resolution))
        page = render(blocks, sections, manifest)
        if len(page.encode()) < MAX_BYTES:
            break
    else:
        raise DataError(f"the report of {len(sections)} stages passes {MAX_BYTES} bytes: report fewer stages at once")
    write_json(output_dir / "summary.json", _clean(summary(blocks, sections, manifest)))
    write_text(output_dir / "index.html", page)
    return output_dir / "index.html"


def make_blocks(sections: Sequence[Section], canvas: Canvas) -> list[Block]:
    """Make the blocks of all sections that have something to show."""
    made = ((section, MAKERS.get(section.type)) for section in sections)
    found = [maker(section, canvas) for section, maker in made if maker is not None]
    return [block for block in [compare_block(sections, canvas), *found] if block is not None]


def key_figures(blocks: Sequence[Block], manifest: Mapping[str, Any]) -> list[Card]:
    """Choose the cards at the top: one for each figure, the last stage that gives it wins, the total time last."""
    cards = {card.label: card for block in blocks for card in block.cards}
    chosen = [cards[label] for label in _CARD_ORDER if label in cards]
    _, total = time_shares(manifest)
    if total is not None:
        value, unit = duration(total), ""
        chosen.append(Card("Wall time", value, unit, "in which stages ran"))
    return chosen


def render(blocks: Sequence[Block], sections: Sequence[Section], manifest: Mapping[str, Any]) -> str:
    """Lay the blocks out as one HTML document without anything from outside."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("dpsim.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup  # made by this package; labels inside are escaped by matplotlib
    template = environment.from_string(folder.joinpath("page.jinja").read_text(encoding="utf-8"))
    anchors = {block.stage: block.anchor for block in blocks}
    parts, _ = time_shares(manifest)
    return template.render(
        title=str(manifest.get("name") or "dpsim run"),
        style=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),
        started=started(manifest),
        version=(manifest.get("dpsim") or {}).get("version"),
        cards=key_figures(blocks, manifest),
        stages=pipeline(manifest, sections, anchors),
        shares=parts,
        blocks=blocks,
        provenance=provenance_tables(manifest),
        citations=[str(citation) for citation in manifest.get("citations") or []],
    )


def summary(blocks: Sequence[Block], sections: Sequence[Section], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Key figures and what each stage found, for programs."""
    return {
        "format": 1,
        "name": manifest.get("name"),
        "cards": [
            {"label": c.label, "value": c.value, "unit": c.unit, "note": c.note} for c in key_figures(blocks, manifest)
        ],
        "stages": {block.stage or block.anchor: {"kind": block.kind, **block.summary} for block in blocks},
        "reported": [section.name for section in sections],
        "wall_seconds": time_shares(manifest)[1],
    }


def _clean(value: Any) -> Any:
    """Replace what JSON cannot hold: numbers that are none."""
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
