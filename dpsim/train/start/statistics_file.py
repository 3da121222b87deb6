"""Numbers taken from the data, kept in a file for other trainings of the same settings on the same data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dpsim.data.files import read_json, write_json
from dpsim.errors import DataError
from dpsim.model.base import Model
from dpsim.model.multi_task import MultiTaskModel

log = logging.getLogger("dpsim.train")

FORMAT = 1


def with_statistics(
    path: str | Path | None, model: Model | MultiTaskModel, facts: Mapping[str, Any], take: Callable[[], None]
) -> bool:
    """Set what the data say about a model, from a file if it knows, else by taking it.

    Parameters
    ----------
    path
        The file; None or empty: no file. It is written anew with what was taken.
    facts
        What the numbers depend on beside the settings of the model, as JSON.
    take
        Sets buffers of the model from the data.

    Returns
    -------
    bool
        Whether it was taken.

    Raises
    ------
    DataError
        If the file is there and is no such file.
    """
    if not path:
        take()
        return True
    path = Path(path)
    entries = _read(path) if path.exists() else {}
    key = _key({**facts, "model": model.config.model_dump(mode="json")})
    buffers = dict(model.named_buffers())
    if key in entries:
        _set(buffers, entries[key], path)
        log.info("bias and scales from %s: %s", path, ", ".join(entries[key]) or "none")
        return False
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    take()
    entries[key] = {
        name: {"shape": list(buffer.shape), "values": buffer.flatten().tolist()}
        for name, buffer in buffers.items()
        if not torch.equal(buffer, before[name])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "entries": entries})
    log.info("bias and scales are kept in %s", path)
    return True


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content.get("format") != FORMAT or not isinstance(content.get("entries"), dict):
        raise DataError(
            f"{path} is no file of statistics (format {FORMAT}): remove it, or name another as statistics_file"
        )
    return dict(content["entries"])


def _set(buffers: Mapping[str, torch.Tensor], entry: Mapping[str, Any], path: Path) -> None:
    try:
        for name, value in entry.items():
            buffers[name].copy_(torch.tensor(value["values"], dtype=torch.float64).reshape(value["shape"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, so that it is made anew") from None


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=20).hexdigest()
