"""How much a workflow file may mean: a few lines can stand for more values than any memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MAX_VALUES: Final = 2_000_000
"""Values after everything is filled in, for all matrix points together."""
MAX_CHARACTERS: Final = 10_000_000
"""Characters of text that is filled in."""
MAX_TASKS: Final = 10_000
"""Stages, each matrix point counted."""


TOO_MUCH: Final = f"what is filled in is more than {MAX_VALUES:,} values or {MAX_CHARACTERS:,} characters of text"


class TooMuch(Exception):
    """More than a workflow can mean."""


@dataclass
class Budget:
    """What was used of it."""

    values: int = 0
    characters: int = 0
    tasks: int = 0

    def spend(self, found: Any) -> None:
        """Count a value that is filled in.

        Raises
        ------
        TooMuch
            If all together are too many.
        """
        if isinstance(found, str):
            self.characters += len(found)
        self.values += _size(found, MAX_VALUES - self.values)
        if self.values > MAX_VALUES or self.characters > MAX_CHARACTERS:
            raise TooMuch(TOO_MUCH)


def _size(value: Any, most: int) -> int:
    """Return how many values there are in a value, counted up to a limit."""
    count, stack = 0, [value]
    while stack and count <= most:
        item = stack.pop()
        count += 1
        if isinstance(item, dict | list):
            stack += item.values() if isinstance(item, dict) else item
    return count
