"""Which structures something is done with, as declared.

Only declarations live here (no torch, no ASE), so that a workflow can be validated in an instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from data_tools.structure_config import KINDS, AnyStructure, StructureConfig
from dpsim.config import Config

Place = tuple[str | int, ...]
Repetition = Annotated[int, Field(ge=1)]

_INDEX = re.compile(r"[+-]?\d+|[+-]?\d*:[+-]?\d*(:[+-]?\d+)?")


def _read_index(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _INDEX.fullmatch(str(value)):
        raise ValueError(f"{value!r} is not an index: write a number (-1 is the last) or a range such as ':' or '2:10'")
    if str(value).endswith(":0"):
        raise ValueError(f"{value!r} has steps of zero")
    return str(value)


Index = Annotated[
    str,
    BeforeValidator(_read_index),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]}, mode="validation"),
]
"""Which frames of a file: a number, or a range as of Python."""


class FramesConfig(Config):
    """Frames of a file or of another stage."""

    frames: Annotated[str, Field(min_length=1)]
    """A reference such as ``relaxed.frames``, or the path of a file that ASE reads."""
    index: Index = ":"
    """Which frames: ``0``, ``-1``, ``:``, ``2:10``."""
    supercell: tuple[Repetition, Repetition, Repetition] = (1, 1, 1)
    """Repetitions along the three cell vectors."""


Structure = FramesConfig | AnyStructure


def _read_structure(value: Any) -> Any:
    return {"frames": value} if isinstance(value, str) else value


def _any_of(schema: dict[str, Any]) -> None:
    schema["anyOf"] = schema.pop("oneOf")  # a mapping of one key can be read in two ways; the keys decide


def _or_text(schema: dict[str, Any]) -> None:
    _any_of(schema)
    schema["anyOf"].insert(0, {"type": "string"})


def _structure_kind(value: Any) -> str:
    frames = isinstance(value, FramesConfig) or (isinstance(value, Mapping) and "frames" in value)
    return "frames" if frames else "structure"


OneStructure = Annotated[
    Annotated[FramesConfig, Tag("frames")] | Annotated[StructureConfig, Tag("structure")],
    Discriminator(_structure_kind),
    BeforeValidator(_read_structure),
    Field(json_schema_extra=_or_text),
]
"""A reference or a path, frames of a file, or structures to build, told apart by their keys."""

_KEYS = {"frames", *KINDS}


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "list"
    if not isinstance(value, Mapping):
        return "one"
    # A mapping beside one of these keys is the number of molecules, or else a structure of that name.
    keys = {key for key in _KEYS & value.keys() if key == "molecules" or not isinstance(value[key], Mapping)}
    return "one" if keys else "named"


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
On = Annotated[
    Annotated[OneStructure, Tag("one")]
    | Annotated[list[OneStructure], Field(min_length=1), Tag("list")]
    | Annotated[dict[Name, OneStructure], Field(min_length=1), Tag("named")],
    Discriminator(_kind),
    Field(json_schema_extra=_any_of),
]
"""Structures: one declaration, a list of them, or a mapping that gives them names."""


def declared(place: Place, value: Any) -> Iterator[tuple[Place, str, Structure]]:
    """Yield place, name ("" if none is given) and declaration of each structure of an `On`."""
    if isinstance(value, Mapping):
        yield from (((*place, name), name, one) for name, one in value.items())
    elif isinstance(value, list | tuple):
        yield from (((*place, index), "", one) for index, one in enumerate(value))
    elif value is not None:
        yield place, "", value
