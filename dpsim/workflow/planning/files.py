"""The files that an input means: by a path, a pattern, or the name of a pretrained model."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from dpsim.model.pretrained import HUB, hub_file
from dpsim.workflow.language.patterns import expand
from dpsim.workflow.language.problems import closest
from dpsim.workflow.records.files import full_path


def match_files(base: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files or folders that the first fitting pattern means, sorted; a name without wildcards is itself.

    Raises
    ------
    ConfigError
        If there is no pretrained model of a name.
    DataError
        If a pattern leads past too many files.
    """
    for pattern in patterns:
        full = str(hub_file(pattern) if pattern.startswith(HUB) else full_path(base, pattern))
        found = [full] if "\0" not in full and os.path.exists(full) else expand(full)
        if found:
            return [Path(path) for path in found]
    return []


def near(base: Path, pattern: str) -> str:
    """Return the file that was perhaps meant by a pattern that fits none; empty if there is nothing like it."""
    parent = full_path(base, pattern).parent
    try:
        if glob.has_magic(pattern) or not parent.is_dir():
            return ""
        guess = closest(Path(pattern).name, sorted(entry.name for entry in parent.iterdir())[:1000])
    except (OSError, ValueError):  # a folder that cannot be read, a name that cannot be one
        return ""
    return str(Path(pattern).parent / guess) if guess else ""
