"""YAML as workflows mean it: the scalars of YAML 1.2, every value with its place, nothing constructed.

PyYAML's scanner, parser and composer are used; its YAML 1.1 resolver is not, since it reads ``1e-3`` as
text, ``No`` as false and ``12:30`` as 750, and keeps the last of two equal keys silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from dpsim.workflow.language.problems import Collector, InvalidWorkflow, Path, Place, Problem, lines_of

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 100_000

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
_MERGE: Final = "<<"


class _CoreLoader(yaml.SafeLoader):
    """A safe loader that resolves the scalars of the YAML 1.2 core schema and bounds nesting."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, at most `MAX_DEPTH` levels deep."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooDeep(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _TooDeep(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.mark = mark


for _name, _pattern in _SCALARS.items():
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern.pattern})$"), None)


def core_resolvers() -> dict[Any, Any]:
    """Return PyYAML's table of resolvers for the YAML 1.2 core schema, for a dumper of what this reads."""
    return {key: list(rows) for key, rows in _CoreLoader.yaml_implicit_resolvers.items()}


@dataclass
class Loaded:
    """Plain values of a file with the place of each."""

    data: Any
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def collector(self) -> Collector:
        """Return a collector of problems that knows the places of this file."""
        return Collector(self.places, self.keys, self.sources)


def load_file(path: FilePath, name: str | None = None) -> Loaded:
    """Read one YAML file.

    Parameters
    ----------
    path
        The file.
    name
        How the file is called in messages, by default its path.

    Raises
    ------
    InvalidWorkflow
        With every problem of the text that can be told in one pass.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # a device or a pipe tells no size before
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidWorkflow(
            [Problem("E106", f"cannot be read: {reason}; check the path", place=Place(name, 1, 1, 1))]
        ) from None
    if len(raw) > MAX_BYTES:
        message = f"the file has more than the {MAX_BYTES / 1e6:.0f} MB that are read as a workflow"
        raise InvalidWorkflow([Problem("E103", message, place=Place(name, 1, 1, 1))])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = f"byte {error.start} is not UTF-8 text; save the file as UTF-8"
        raise InvalidWorkflow([Problem("E106", message, place=Place(name, line, 1, 1))]) from None
    return load_text(text, name)


def load_text(text: str, name: str) -> Loaded:
    """Read YAML text; `name` is used in messages (see `load_file`)."""
    loaded = Loaded(None, sources={name: text})
    try:
        loader = _CoreLoader(text)
        node = loader.get_single_node()  # type: ignore[no-untyped-call]
    except _TooDeep as error:
        problem = Problem("E103", f"nested deeper than {MAX_DEPTH} levels", place=_mark(name, error.mark))
        raise InvalidWorkflow([problem], loaded.sources) from None
    except yaml.reader.ReaderError as error:
        # ReaderError carries a position, not a mark, and its text shows internals.
        line = text.count("\n", 0, error.position) + 1
        problem = Problem(
            "E101", f"character #x{ord(text[error.position]):04x} is not allowed in YAML", place=Place(name, line, 1, 1)
        )
        raise InvalidWorkflow([problem], loaded.sources) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise InvalidWorkflow([Problem("E101", message, place=_mark(name, mark))], loaded.sources) from None
    builder = _Builder(name, loaded)
    loaded.data = builder.value(node, ()) if node is not None else None
    builder.collector.check()
    return loaded


def _mark(name: str, mark: yaml.Mark | None) -> Place:
    if mark is None:
        return Place(name, 1, 1, 2)
    return Place(name, mark.line + 1, mark.column + 1, mark.column + 2)


def scalar(text: str) -> Any:
    """Return the value of a plain scalar under the YAML 1.2 core schema.

    Raises
    ------
    ValueError
        If the text is a number that is too long to be read.
    """
    for kind, pattern in _SCALARS.items():
        if pattern.fullmatch(text):
            return _convert(kind, text)
    return text


def _convert(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if text.startswith(("0o", "0x")):
            return int(text, 0)
        if len(text) > 400:
            raise ValueError("a number of more than 400 digits")
        return int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class _Builder:
    """Turns composed nodes into plain values, noting places and problems."""

    def __init__(self, name: str, loaded: Loaded, lengths: list[int] | None = None) -> None:
        self.name = name
        self.loaded = loaded
        self.collector = loaded.collector()
        self.lengths = lengths if lengths is not None else [len(line) for line in lines_of(loaded.sources[name])]
        self.count = 0
        self.open: list[int] = []

    def place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        last = end.column if end.line == start.line else self.lengths[start.line]
        return Place(self.name, start.line + 1, start.column + 1, max(last, start.column + 1) + 1)

    def value(self, node: yaml.Node, path: Path) -> Any:
        """Return the plain value of a node."""
        self.loaded.places[path] = self.place(node)
        self.count += 1
        if id(node) in self.open:
            self._fatal("E103", path, "an alias (*name) stands inside of what it names")
        if self.count > MAX_VALUES:
            self._fatal("E103", path, f"more than {MAX_VALUES:,} values after aliases (*name) are expanded")
        if not isinstance(node, yaml.ScalarNode) and len(path) > MAX_DEPTH:
            self._fatal("E103", path, f"nested deeper than {MAX_DEPTH} levels after aliases (*name) are expanded")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._tag(node, "seq", path)
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            self._tag(node, "map", path)
            return self._mapping(node, path)
        finally:
            self.open.pop()

    def _fatal(self, code: str, path: Path, message: str) -> None:
        self.collector.add(code, path, message)
        self.collector.check()

    def _tag(self, node: yaml.Node, expected: str, path: Path) -> None:
        if node.tag != _TAG + expected:
            self.collector.add(
                "E104", path, f"the tag {node.tag.removeprefix(_TAG)!r} is not allowed; write a plain value"
            )

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return node.value
        if kind not in _SCALARS or not _SCALARS[kind].fullmatch(node.value):
            if kind in _SCALARS:
                self.collector.add("E205", path, f"{node.value!r} is not a YAML {kind}")
            else:
                self._tag(node, "str", path)
            return None
        try:
            return _convert(kind, node.value)
        except ValueError as error:
            self.collector.add("E205", path, f"{error} is not a number that can be read")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = key_node.value or "null" if isinstance(key_node, yaml.ScalarNode) else "[..] or {..}"
                message = f"the key {shown} is not text; put it in quotes"
                self.collector.add("E105", path, message, place=self.place(key_node))
                continue
            key = key_node.value
            if key == _MERGE and key_node.style is None:
                merges.append(value_node)
                continue
            inner = (*path, key)
            if key in result:
                message = f"the key {key!r} is written twice; remove one of the two"
                self.collector.add("E102", inner, message, place=self.place(key_node))
                continue
            self.loaded.keys[inner] = self.place(key_node)
            result[key] = self.value(value_node, inner)
        for value_node in merges:
            self._merge(value_node, result, path)
        return result

    def _merge(self, node: yaml.Node, result: dict[str, Any], path: Path) -> None:
        """Add the keys of ``<<: *name`` (or a list of them) that `result` does not have."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for item in nodes:
            if not isinstance(item, yaml.MappingNode):
                message = "'<<' takes a mapping or a list of mappings (*name)"
                self.collector.add("E205", path, message, place=self.place(node))
                return
            scratch = _Builder(self.name, Loaded(None, sources=self.loaded.sources), self.lengths)
            scratch.count, scratch.open = self.count, self.open
            scratch.collector.problems = self.collector.problems
            merged = scratch.value(item, path)
            self.count = scratch.count
            if not isinstance(merged, dict):
                return
            for key, value in merged.items():
                if key not in result:
                    result[key] = value
                    self._adopt(scratch.loaded, (*path, key))

    def _adopt(self, other: Loaded, path: Path) -> None:
        for mine, theirs in ((self.loaded.places, other.places), (self.loaded.keys, other.keys)):
            mine.update({p: place for p, place in theirs.items() if p[: len(path)] == path})
