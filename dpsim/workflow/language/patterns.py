"""Patterns of file names, ``aimd/**/OUTCAR``, matched without running in circles or through a whole disk."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator
from typing import Final

from dpsim.errors import DataError

MAX_LOOKED_AT: Final = 1_000_000
"""Files and folders that one pattern may lead past."""


def expand(pattern: str) -> list[str]:
    """Return the paths that a pattern means, sorted; one without wildcards means itself if it exists.

    ``*``, ``?`` and ``[..]`` match within a name, ``**`` any folders, links to folders among them but none twice on one
    way; names that begin with a dot only where the pattern has the dot too.

    Raises
    ------
    DataError
        If more than `MAX_LOOKED_AT` names would have to be looked at.
    """
    if "\0" in pattern:
        return []
    root = "/" if pattern.startswith("/") else ""
    parts = [part for part in pattern.split("/") if part]
    return sorted(dict.fromkeys(_Search(pattern).below(root, parts, ())))


class _Search:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._looked_at = 0

    def below(self, folder: str, parts: list[str], inside: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Yield what the parts of a pattern match from a folder on; ``**`` is in the folders `inside`."""
        if not parts:
            yield folder
            return
        first, rest = parts[0], parts[1:]
        if first == "**":
            yield from self._any_depth(folder, rest, inside)
        elif not glob.has_magic(first):
            path = os.path.join(folder, first)
            if os.path.lexists(path) and (not rest or os.path.isdir(path)):
                yield from self.below(path, rest, ())
        else:
            matches = re.compile(fnmatch.translate(first)).match
            for name, is_folder in self._names(folder):
                hidden = name.startswith(".") and not first.startswith(".")
                if not hidden and matches(name) and (not rest or is_folder):
                    yield from self.below(os.path.join(folder, name), rest, ())

    def _any_depth(self, folder: str, rest: list[str], inside: tuple[tuple[int, int], ...]) -> Iterator[str]:
        try:
            status = os.stat(folder or ".")
        except OSError:
            return
        place = (status.st_dev, status.st_ino)
        if place in inside:
            return
        if rest:
            yield from self.below(folder, rest, (*inside, place))
        for name, is_folder in self._names(folder):
            if not name.startswith("."):
                path = os.path.join(folder, name)
                if not rest:
                    yield path
                if is_folder:
                    yield from self._any_depth(path, rest, (*inside, place))

    def _names(self, folder: str) -> list[tuple[str, bool]]:
        """Return the names in a folder, and whether each is a folder; none if it cannot be read."""
        found = []
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    self._looked_at += 1
                    if self._looked_at > MAX_LOOKED_AT:
                        raise DataError(
                            f"the pattern {self._pattern!r} leads past more than {MAX_LOOKED_AT:,} files; "
                            "write more of the path before the first '*'"
                        )
                    found.append((entry.name, entry.is_dir()))
        except OSError:
            return []
        return found
