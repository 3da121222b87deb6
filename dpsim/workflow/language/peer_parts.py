"""Sections of a train stage in the words of DeePMD-kit: its ``input.json`` named, or a section of it written out.

    model: {deepmd: input.json}
    loss: {type: ener, start_pref_e: 0.02, limit_pref_e: 1, start_pref_f: 1000, limit_pref_f: 1}

They are translated before the stage is validated, so that the cache key of the stage depends on what they say. So are
tables of pair energies that a model in dpsim's own words names.
"""

from __future__ import annotations

import logging
from pathlib import Path as FilePath
from typing import Any

from dpsim.errors import ConfigError
from dpsim.workflow.language.problems import Collector, Path

log = logging.getLogger("dpsim.workflow")

KEYS = ("model", "learning_rate", "loss", "optimizer")


def translated(
    stage: Any, base: FilePath, type_map: tuple[str, ...], collector: Collector, path: Path = ()
) -> dict[str, Any]:
    """Plain values of a train stage with every such section in the words of dpsim.

    Parameters
    ----------
    base
        Folder to which file names are relative.
    path
        Where the stage stands in the file.
    """
    result = dict(stage)
    for key in KEYS:
        node = result.get(key)
        if not isinstance(node, dict):
            continue
        from dpsim.model.peer.inputs import input as peer

        named = set(node) == {"deepmd"}
        if not named and not peer.is_part(key, node):
            if key == "model" and node.get("type") in ("linear", "zbl"):
                result[key] = _with_tables(node, base, len(type_map), collector, (*path, key))
            continue
        try:
            where, section = _section(key, node["deepmd"], base) if named else (key, node)
            folder = (base / node["deepmd"]).parent if named else base
            result[key], notes = peer.translate_part(key, section, where, type_map, folder)
        except ConfigError as error:
            collector.add("E405", (*path, key), str(error))
            del result[key]
            if key == "model":
                result[key] = {"preset": "dpa3-tiny"}  # so that the rest of the stage is checked
            continue
        for note in notes:
            log.warning("%s: %s", ".".join(map(str, path)) or "input", note)
    return result


def _with_tables(node: dict[str, Any], base: FilePath, n_types: int, collector: Collector, path: Path) -> Any:
    """Return the section with tables instead of the names of their files, so that the key depends on the numbers."""
    from dpsim.train.settings.composed_model import with_tables

    try:
        return with_tables(node, base, n_types)
    except ConfigError as error:
        collector.add("E405", path, str(error))
        return {"preset": "dpa3-tiny"}  # so that the rest of the stage is checked


def _section(key: str, name: Any, base: FilePath) -> tuple[str, Any]:
    from dpsim.model.peer.inputs.input import read_json_input

    if not isinstance(name, str):
        raise ConfigError(f"{key}.deepmd: {name!r}: the name of an input.json is expected")
    tree = read_json_input(base / name)
    if key not in tree:
        raise ConfigError(f"{key}.deepmd: {name} has no section {key!r}")
    return f"{name}: {key}", tree[key]
