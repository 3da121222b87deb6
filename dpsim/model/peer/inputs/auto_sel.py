"""Numbers of neighbours that an input leaves to the data: ``sel: auto``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from dpsim.data import open_dataset
from dpsim.data.distances import neighbor_counts
from dpsim.errors import ConfigError
from dpsim.model.peer.family import SelPlace, setting_at
from dpsim.model.peer.inputs.input import TrainingInput


def resolve_sel(found: TrainingInput) -> dict[str, Any]:
    """Settings with every ``sel: auto`` counted in the training data (spec common.md §2.6).

    Raises
    ------
    ConfigError
        If a setting is neither a number nor ``auto`` with a factor.
    DataError
        If the data cannot be read.
    """
    if found.heads:
        every = [path for one in found.heads.values() for path in one.train_systems]  # shared parts have one number
        whole = json.loads(json.dumps(found.settings))
        for name, one in found.heads.items():
            whole["heads"][name] |= {"model": resolve_sel(replace(one, train_systems=every)).get("model")}
        return dict(whole)
    wanted = [(place, factor) for place in found.sel_places if (factor := _factor(found, place)) is not None]
    if not wanted:
        return found.settings
    most: dict[float, list[int]] = {}
    for frame in open_dataset(found.train_systems, found.type_map):
        for cutoff in {place.cutoff for place, _ in wanted}:
            counts = neighbor_counts(frame, cutoff, len(found.type_map))
            both = [*counts.max(axis=0, initial=0), counts.sum(axis=1).max(initial=0)]
            most[cutoff] = [max(a, int(b)) for a, b in zip(most.get(cutoff, [0] * len(both)), both, strict=True)]
    settings = json.loads(json.dumps(found.settings))
    for place, factor in wanted:
        *by_type, total = [4 * ((int(n * factor) + 3) // 4) for n in most[place.cutoff]]
        _put(settings["model"], place.path, by_type if place.by_type else total * place.copies)
    return dict(settings)


def _factor(found: TrainingInput, place: SelPlace) -> float | None:
    value = setting_at(found.settings["model"], place.path)
    if not isinstance(value, str):
        return None
    word, _, factor = value.partition(":")
    try:
        if word == "auto":
            return float(factor or 1.1)
    except ValueError:
        pass
    raise ConfigError(f"model.{'.'.join(map(str, place.path))}: {value!r}: a number, auto or auto:FACTOR is expected")


def _put(node: Any, path: tuple[str | int, ...], value: Any) -> None:
    setting_at(node, path[:-1])[path[-1]] = value
