"""Writes the pages of ``workflows/reference``: as ``dpsim schema --pages``, with the tests in the table of stages."""

from __future__ import annotations

import re
from pathlib import Path

from dpsim.workflow.reference.pages import pages
from dpsim.workflow.stages import STAGE_TYPES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "workflows" / "reference"
NOT_RUN = ("cli", "fuzz", "acceptance")
"""Folders of tests that name stages without being about them."""
CHECKED_ONLY = (
    "document",
    "ensemble",
    "errors",
    "fuzz",
    "keys",
    "loader",
    "nursery",
    "pages",
    "plan",
    "schema",
    "kill",
    "disk",
)


def where_tested(name: str) -> str:
    """Return the test file that is about a stage type: the one with most stages of it."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        count = len(re.findall(rf'uses: {name}\b|stage\("{name}"|"uses": "{name}"', text))
        about = path.parent.name not in NOT_RUN and path.stem.removeprefix("test_workflow_") not in CHECKED_ONLY
        if count and about:
            found[path.relative_to(ROOT).as_posix()] = count
    return max(found, key=lambda path: (found[path], path), default="")


def made() -> dict[str, str]:
    """Return all pages."""
    return pages({name: where_tested(name) for name in STAGE_TYPES})


if __name__ == "__main__":
    written = made()
    DOCS.mkdir(exist_ok=True)
    for old in DOCS.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (DOCS / name).write_text(text, encoding="utf-8")
