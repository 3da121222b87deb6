"""Models that differ, made from those that are compiled already by another header."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any


def with_header(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """A copy of a frozen model whose header says something else; None removes a key."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("_metadata.json"):
                outer = json.loads(data)
                inner = {k: v for k, v in json.loads(outer["dpsim"]).items() if change.get(k, ...) is not None}
                outer["dpsim"] = json.dumps({**inner, **{k: v for k, v in change.items() if v is not None}})
                data = json.dumps(outer).encode()
            new.writestr(item.filename, data)
    return target


def header(model: Path) -> dict[str, Any]:
    """What a frozen model says about itself."""
    with zipfile.ZipFile(model) as archive:
        name = next(name for name in archive.namelist() if name.endswith("_metadata.json"))
        found: dict[str, Any] = json.loads(json.loads(archive.read(name))["dpsim"])
    return found


def swapped(model: Path, target: Path) -> Path:
    """The model that takes each of two elements for the other: a potential of its own, in another order of types."""
    return with_header(model, target, {"type_map": header(model)["type_map"][::-1], "digest": "swapped"})


def shorter(model: Path, target: Path, cutoff: float = 3.4) -> Path:
    """The model that sees less far: other lists."""
    neighbors = header(model)["neighbors"]
    inner = [{**one, "cutoff": cutoff - 1.0} for one in neighbors["inner"]]
    return with_header(
        model, target, {"neighbors": {**neighbors, "cutoff": cutoff, "inner": inner}, "digest": "shorter"}
    )
