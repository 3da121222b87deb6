"""Problems of a workflow file: where, what, why and how to mend it, all of a file in one pass."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dpsim.errors import ConfigError
from dpsim.workflow.language.budget import Budget
from dpsim.workflow.stage import dotted

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""
MAX_PROBLEMS: Final = 50
"""Problems after which a file is not looked at any further."""
_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as PyYAML counts them, which knows more line breaks than most."""
    return _BREAKS.split(text)


@dataclass(frozen=True, order=True)
class Place:
    """A stretch of text in a file; lines and columns count from one."""

    file: str
    line: int
    column: int
    end_column: int
    """One past the last character, on the same line."""

    def __str__(self) -> str:
        if self.file.startswith("--"):
            return self.file  # an option of the command line has one line
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    code: str
    message: str
    path: Path = ()
    place: Place | None = None
    suggestion: str = ""
    """What was probably meant."""
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return the problem as one line."""
        parts = [str(self.place) if self.place else "", dotted(self.path)]
        prefix = "".join(f"{part}: " for part in parts if part)
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return f"{prefix}{self.message}{hint} [{self.code}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the problem for ``--json``."""
        place = self.place
        return {
            "code": self.code,
            "message": self.message,
            "path": dotted(self.path),
            "file": place.file if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "suggestion": self.suggestion or None,
            "notes": list(self.notes),
        }


class InvalidWorkflow(ConfigError):
    """A workflow file with one or more problems.

    Parameters
    ----------
    problems
        All that was found, at least one.
    sources
        Text of the files by the name used in the places, for the excerpts.
    """

    def __init__(self, problems: Sequence[Problem], sources: Mapping[str, str] | None = None) -> None:
        self.problems = tuple(problems)
        self.sources = dict(sources or {})
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(self.problems[0].sentence() + more)

    def render(self) -> str:
        """Return every problem with its excerpt, ready to print."""
        shown = [render(problem, self.sources) for problem in self.problems]
        if len(shown) >= MAX_PROBLEMS:
            shown.append(f"these are the first {MAX_PROBLEMS} problems; there may be more")
        return "\n\n".join(shown)


@dataclass
class Collector:
    """Gathers problems so that all of a file are reported at once."""

    places: Mapping[Path, Place] = field(default_factory=dict)
    """Place of each value."""
    keys: Mapping[Path, Place] = field(default_factory=dict)
    """Place of each key."""
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spent: Budget = field(default_factory=Budget)
    """How much the file was found to mean."""

    def add(
        self,
        code: str,
        path: Path,
        message: str,
        *,
        key: bool = False,
        place: Place | None = None,
        suggestion: str = "",
        notes: Iterable[str] = (),
    ) -> None:
        """Note a problem at `path`; `key` points at the key instead of the value, `place` elsewhere."""
        problem = Problem(code, message, path, place or self.place(path, key=key), suggestion, tuple(notes))
        # A value that could not be filled in is wrong in itself; what follows from it is noise.
        unfilled = any(known.path == path and known.code == "E210" for known in self.problems)
        if problem not in self.problems and not unfilled:
            self.problems.append(problem)
            if len(self.problems) >= MAX_PROBLEMS:
                self.check()

    def place(self, path: Path, *, key: bool = False) -> Place | None:
        """Return the place of a value, or of the nearest mapping around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path:
            path = path[:-1] if key else path
            if key and path in self.keys:
                return self.keys[path]
            if path in self.places:
                return self.places[path]
            path = path if key else path[:-1]
        return self.places.get(())

    def check(self) -> None:
        """Raise what was gathered, in the order of the file.

        Raises
        ------
        InvalidWorkflow
            If there is any problem.
        """
        if self.problems:
            ordered = sorted(self.problems, key=lambda p: (p.place is None, p.place or Place("", 0, 0, 0)))
            raise InvalidWorkflow(ordered, self.sources)


def closest(word: str, choices: Iterable[str]) -> str:
    """Return the choice that `word` was probably meant to be, or an empty string."""
    if len(word) > 100:
        return ""
    near = [choice for choice in choices if 2 * len(word) <= 5 * len(choice) <= 12 * len(word) + 5][:2000]
    found = difflib.get_close_matches(word, near, n=1, cutoff=0.6)
    return found[0] if found else ""


def render(problem: Problem, sources: Mapping[str, str]) -> str:
    """Return one problem as a few lines: what, where with an excerpt, why, help."""
    head = f"error[{problem.code}]"
    if problem.place:
        head += f" {problem.place}"
    lines = [f"{head}  {dotted(problem.path)}".rstrip(), f"  {problem.message}"]
    excerpt = _excerpt(problem, sources)
    lines += excerpt
    if problem.suggestion and not excerpt:
        lines.append(f"  did you mean {problem.suggestion!r}?")
    help_line = f"help: dpsim explain {problem.code}"
    notes = [line for note in problem.notes for line in textwrap.wrap(note, 110, break_on_hyphens=False)] or [""]
    lines += [f"  {note}" for note in notes[:-1]]
    if len(notes[-1]) > 52:
        lines += [f"  {notes[-1]}", f"  {'':<54}{help_line}"]
    else:
        lines.append(f"  {notes[-1]:<54}{help_line}")
    return "\n".join(lines)


def _excerpt(problem: Problem, sources: Mapping[str, str]) -> list[str]:
    place = problem.place
    if place is None or place.file not in sources:
        return []
    text = lines_of(sources[place.file])
    if not 1 <= place.line <= len(text):
        return []
    line = text[place.line - 1].rstrip("\r")
    start, end = place.column - 1, min(place.end_column - 1, len(line))
    shift = max(0, start - 60)  # keep the marked part of a very long line on the screen
    shown = "".join(" " if ord(c) < 32 else c for c in line[shift : shift + 110])
    marker = "^" * max(1, min(end, shift + 110) - start)
    hint = f" did you mean {problem.suggestion!r}?" if problem.suggestion else ""
    return [f"  {place.line:4d} | {shown}", f"       | {' ' * (start - shift)}{marker}{hint}"]
