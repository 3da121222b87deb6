"""From pydantic's list of errors to problems with a code, a place in the file and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dpsim.config import InnerErrors
from dpsim.workflow.language.problems import MAX_PROBLEMS, Collector, Path, closest
from dpsim.workflow.stage import Stage

# What a value is, in the words of the file, by pydantic's error type.
_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "nothing",
}
_LENGTHS = {"too_long": "at most", "too_short": "at least"}
_MANY_KEYS = 16
_ROOT_KINDS = {*_EXPECTED, "literal_error"}


def report(
    error: ValidationError, raw: Any, model: type[BaseModel], collector: Collector, base: Path, what: str
) -> None:
    """Add the problems of one failed validation to a collector.

    Parameters
    ----------
    error
        As raised by ``model.model_validate(raw)``.
    raw
        The plain value that was validated.
    base
        Where `raw` stands in the file.
    what
        How the mapping is called in messages, for example ``a train stage``.
    """
    first = islice(_unfolded(error.errors(include_url=False)), MAX_PROBLEMS * _MANY_KEYS)
    located = [_Located(item, *_locate(item, raw)) for item in first]
    chosen = _choose(located)
    unknown = [item.names for item in chosen if item.error["type"] == "extra_forbidden"]
    meant = {(*names[:-1], closest(str(names[-1]), _known_keys(model, names[:-1], raw))) for names in unknown}
    for item in chosen:
        if item.error["type"] == "too_short" and any(_inside(other.path, item.path) for other in chosen):
            continue  # pydantic counts only the items that are right
        if item.error["type"] == "missing" and item.names in meant:
            continue  # it is there, misspelt, and that is said already
        _add(item, raw, model, collector, base, what)


def _unfolded(errors: Iterable[Any]) -> Iterator[Any]:
    """Yield errors, with those of a value that a validator builds from what is written in their place."""
    for item in errors:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InnerErrors):
            place = (*item["loc"], *cause.where)
            yield from ({**inner, "loc": (*place, *inner["loc"])} for inner in _unfolded(cause.errors))
        else:
            yield item


def _inside(path: Path, outer: Path) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


Tags = list[tuple[Path, str]]
"""Members of unions passed on the way, with the place of each union."""


class _Located:
    def __init__(self, error: Any, path: Path, names: Path, tags: Tags) -> None:
        self.error = error
        self.path = path
        """Where in the raw value."""
        self.names = names
        """Where in the model: the same, but for lists that are read as mappings."""
        self.tags = tags


def _locate(error: Any, raw: Any) -> tuple[Path, Path, Tags]:
    """Split pydantic's location into the path in the file, that in the model, and the names of union members.

    A union member may be named like a key (``prototype``), so all readings are tried; the one whose value is what
    pydantic complains about wins, then the one that explains most parts as keys.
    """
    location = [part for part in error["loc"] if part != "[key]"]
    missing = location.pop() if error["type"] == "missing" and location else None

    def rank(reading: _Reading) -> tuple[bool, int]:
        value, _, _, tags = reading
        return (value is error.get("input") or value == error.get("input"), -len(tags))

    _, path, names, tags = max(_readings(location, raw, (), ()), key=rank)
    return (path, names, tags) if missing is None else ((*path, missing), (*names, missing), tags)


_Reading = tuple[Any, Path, Path, Tags]


def _readings(location: Sequence[Any], value: Any, path: Path, names: Path) -> list[_Reading]:
    """Return (value, path in the file, path in the model, union members) for every way to read a location."""
    if not location:
        return [(value, path, names, [])]
    part, rest = location[0], location[1:]
    inner, steps = _entered(value, part)
    found = _readings(rest, inner, (*path, *steps), (*names, part)) if steps else []
    skipped = _readings(rest, value, path, names) if not found or len(location) < 12 else []
    return found + [(end, where, inside, [(path, str(part)), *tags]) for end, where, inside, tags in skipped]


def _entered(value: Any, part: Any) -> tuple[Any, Path]:
    """Return what stands under a key and the steps to it, none if nothing does.

    A list of names and of ``{name: options}`` (`dpsim.config.options_by_name`) has the keys of the mapping it means.
    """
    if _holds(value, part):
        return value[part], (part,)
    if isinstance(value, list) and isinstance(part, str):
        for index, item in enumerate(value):
            if item == part:
                return {}, (index,)
            if isinstance(item, dict) and part in item:
                return item[part], (index, part)
    return None, ()


def _value_at(raw: Any, path: Path) -> Any:
    for part in path:
        raw = raw[part] if _holds(raw, part) else None
    return raw


def _holds(value: Any, part: Any) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _choose(items: list[_Located]) -> list[_Located]:
    """Keep, for each union, the errors of the member that the value was meant to be."""
    kept = [item for item in items if not item.tags]
    groups: dict[Path, dict[str, list[_Located]]] = {}
    for item in items:
        if item.tags:
            where, tag = item.tags[0]
            groups.setdefault(where, {}).setdefault(tag, []).append(item)
    for where, members in groups.items():
        for inner in members.values():
            for item in inner:
                item.tags = item.tags[1:]
        chosen = {tag: _choose(inner) for tag, inner in members.items()}
        kept += _best(where, chosen)
    return kept


def _best(where: Path, members: dict[str, list[_Located]]) -> list[_Located]:
    deep = {
        tag: inner
        for tag, inner in members.items()
        if not any(item.path == where and item.error["type"] in _ROOT_KINDS for item in inner)
    }
    if deep:
        # Unknown keys say "this member was not meant"; the member with the fewest of them, then fewest errors, wins.
        return min(deep.values(), key=lambda inner: (sum(_foreign(item) for item in inner), len(inner)))
    merged = next(iter(members.values()))[0]
    expected = [_expected(item) for inner in members.values() for item in inner if item.path == where]
    merged.error = {**merged.error, "expected_any": list(dict.fromkeys(expected))}
    merged.path = where
    return [merged]


def _foreign(item: _Located) -> bool:
    """Whether an error says that the value is of another kind, e.g. a wrong tag or an unknown key."""
    return item.error["type"] in {"extra_forbidden", "literal_error", "missing"}


def _expected(item: _Located) -> str:
    kind = item.error["type"]
    if kind == "literal_error":
        return f"one of {item.error['ctx']['expected']}"
    return _EXPECTED.get(kind, kind)


def _add(item: _Located, raw: Any, model: type[BaseModel], collector: Collector, base: Path, what: str) -> None:
    error, path = item.error, (*base, *item.path)
    kind = error["type"]
    found = _show(error.get("input"))
    if kind == "extra_forbidden":
        key, inside = str(item.names[-1]), item.names[:-1]
        known = _known_keys(model, inside, raw)
        holder = f"{'.'.join(map(str, inside))!r}" if inside else what
        own = [name for name in known if name not in Stage.model_fields or len(known) < _MANY_KEYS]
        message = f"{key!r} is not a key of {holder}"
        notes = [f"keys: {', '.join(own)}"] if own else []
        within = {name: ((*inside, name), (*inside, name, 0)) for name in own}
        deeper = [name for name, places in within.items() if any(key in _known_keys(model, p, None) for p in places)]
        if deeper:
            notes.insert(0, f"{key!r} is a key of {' and of '.join(map(repr, deeper))}")
        collector.add("E203", path, message, key=path[-1] == key, suggestion=closest(key, known), notes=notes)
    elif kind == "missing":
        parent = path[:-1]
        holder = what if len(item.names) == 1 else f"'{'.'.join(map(str, item.names[:-1]))}'"
        collector.add("E204", parent, f"{holder} needs the key {item.names[-1]!r}", key=bool(parent))
    elif "expected_any" in error:
        message = f"found {found}, expected {' or '.join(error['expected_any'])}"
        choices = [
            choice
            for one in error["expected_any"]
            if one.startswith("one of ")
            for choice in _choices(one.removeprefix("one of "))
        ]
        value = error.get("input")
        collector.add("E205", path, message, suggestion=closest(value, choices) if isinstance(value, str) else "")
    elif kind in {"literal_error", "enum", "union_tag_invalid"}:
        context = error["ctx"]
        choices = _choices(str(context.get("expected") or context.get("expected_tags") or ""))
        value = error["input"]
        if kind == "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            value = value.get(key)
            if _holds(_value_at(raw, item.path), key):
                path = (*path, key)
        message = f"{_show(value)} is not one of the choices"
        suggestion = closest(value, choices) if isinstance(value, str) else ""
        collector.add("E206", path, message, suggestion=suggestion, notes=[f"choices: {', '.join(choices)}"])
    elif kind == "union_tag_not_found":
        key = str(error["ctx"]["discriminator"]).strip("'")
        collector.add("E204", path, f"the key {key!r}, which says what this is, is missing", key=True)
    elif kind in {"value_error", "assertion_error"}:
        message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        code = "E207" if _about_unit(message) else "E205"
        listed = re.search(r"one of ([^:;()]+)", message)
        written = error.get("input")
        guess = closest(written, _choices(listed[1])) if listed and isinstance(written, str) else ""
        collector.add(code, path, message, suggestion=guess)
    elif kind in _LENGTHS:
        limit = error["ctx"].get("max_length", error["ctx"].get("min_length"))
        actual = error["ctx"]["actual_length"]
        message = f"found {actual} item{'s' * (actual != 1)}, expected {_LENGTHS[kind]} {limit}"
        collector.add("E205", path, message)
    elif kind in _EXPECTED:
        collector.add("E205", path, f"found {found}, expected {_EXPECTED[kind]}")
    else:
        message = error["msg"].removeprefix("Input should be ").removeprefix("Input ")
        collector.add("E205", path, f"found {found}, expected {message[0].lower()}{message[1:]}")


def _about_unit(message: str) -> bool:
    return "unit" in message or "write a number and" in message


def _choices(text: str) -> list[str]:
    return [part.strip().strip("'") for part in text.replace(" or ", ", ").split(",") if part.strip()]


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- keys that a mapping may have ----------------------------------------------------------------------------


def _known_keys(model: type[BaseModel], path: Path, raw: Any) -> list[str]:
    """Return the keys of the model (or models, in a union) that stands at a path."""
    candidates: list[Any] = [model]
    for part in path:
        raw = raw[part] if _holds(raw, part) else None
        candidates = [inner for candidate in candidates for inner in _step(candidate, part)]
    models = [m for candidate in candidates for m in _models(candidate)]
    if isinstance(raw, dict) and len(models) > 1:
        # Of a union, suggest from the members that share most keys with what was written.
        most = max(len(raw.keys() & _keys(m).keys()) for m in models)
        models = [m for m in models if len(raw.keys() & _keys(m).keys()) == most]
    return list(dict.fromkeys(key for m in models for key in _keys(m)))


def _keys(model: type[BaseModel]) -> Mapping[str, Any]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _step(candidate: Any, part: str | int) -> Iterator[Any]:
    for model in _models(candidate):
        if part in _keys(model):
            yield _keys(model)[str(part)].annotation
    for annotation in _flatten(candidate):
        origin, arguments = get_origin(annotation), get_args(annotation)
        if isinstance(part, int) and origin in (list, tuple) and arguments:
            yield arguments[0]
        elif origin in (dict, Mapping) and len(arguments) == 2:
            yield arguments[1]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in _flatten(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def _flatten(annotation: Any) -> Iterator[Any]:
    """Yield the members of unions and what is inside of Annotated."""
    arguments = get_args(annotation)
    name = getattr(get_origin(annotation), "__name__", "")
    if getattr(annotation, "__metadata__", None) is not None:
        yield from _flatten(arguments[0])
    elif name in {"UnionType", "Union"}:
        for part in arguments:
            yield from _flatten(part)
    else:
        yield annotation
