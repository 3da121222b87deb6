"""The section ``training_data``: which systems, how many frames in a batch, and how often each system is drawn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpsim.data.locate import find_all
from dpsim.errors import ConfigError
from dpsim.model.peer.family import Settings
from dpsim.model.peer.section import InputSection

_BLOCK = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*:\s*([^:\s]+)\s*")


def sampling_settings(section: InputSection, notes: list[str]) -> Settings:
    """Batch size, shares of systems and frame filter in the words of dpsim.

    Raises
    ------
    ConfigError
        Naming what dpsim does not do.
    """
    size, mixed = _batch_size(section)
    if mixed:
        notes.append(f"{section.where}.batch_size: frames of several systems are mixed in a batch, not taken from one")
    settings: Settings = {"batch_size": size, "sampling": _sampling(section)}
    distance = section.take("min_pair_dist", 0.0)
    if isinstance(distance, bool) or not isinstance(distance, int | float) or distance < 0:
        raise ConfigError(f"{section.where}.min_pair_dist: {distance!r}: a distance in Å is expected")
    if distance:
        settings["frame_filter"] = {"min_distance": float(distance)}
        notes.append(f"{section.where}.min_pair_dist: frames of the validation data are left out in the same way")
    return settings


def matching_systems(section: InputSection, systems: Sequence[Path]) -> list[Path]:
    """Return the systems that ``rglob_patterns`` chooses below some folders; the folders themselves without any.

    Raises
    ------
    ConfigError
        If the patterns are no list of texts.
    DataError
        If they match no system.
    """
    patterns = section.take("rglob_patterns", None)
    if patterns is None:
        return list(systems)
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise ConfigError(f"{section.where}.rglob_patterns: {patterns!r}: a list of patterns is expected")
    return [one.path for one in find_all(systems, patterns)]


def _batch_size(section: InputSection) -> tuple[Any, bool]:
    """The size of a batch, and whether dpsim mixes systems in it where the peer does not."""
    size = section.take("batch_size", "auto")
    if isinstance(size, list):
        if len({str(one) for one in size}) != 1:
            if not all(isinstance(one, int) for one in size):
                raise ConfigError(
                    f"{section.where}.batch_size: {size!r}: a number of frames for each system is expected"
                )
            return size, False
        size = size[0]
    if isinstance(size, str):
        rule, _, number = size.partition(":")
        if rule == "mix":
            return f"max:{number}", False
        if rule not in ("auto", "max", "filter"):
            raise ConfigError(
                f"{section.where}.batch_size: {size!r} is not supported: use a number, auto, auto:N, max:N or filter:N"
            )
    systems = section.node.get("systems")
    return size, size != 1 and not (isinstance(systems, list) and len(systems) == 1 and "rglob_patterns" not in section)


def _sampling(section: InputSection) -> Any:
    style = section.take("auto_prob", "prob_sys_size", alias=("auto_prob_style",))
    weights = section.take("sys_probs", None, alias=("sys_weights",))
    if weights is not None:
        if not isinstance(weights, list):
            raise ConfigError(f"{section.where}.sys_probs: {weights!r}: a list of probabilities is expected")
        return {"weights": weights}
    name, _, blocks = str(style).partition(";")
    if name not in ("prob_sys_size", "prob_uniform") or (blocks and name == "prob_uniform"):
        raise ConfigError(
            f"{section.where}.auto_prob: {style!r} is not supported: use prob_uniform, prob_sys_size, or "
            "prob_sys_size;begin:end:weight;..."
        )
    if not blocks:
        return "frames" if name == "prob_sys_size" else "systems"
    return {"blocks": _blocks(blocks, f"{section.where}.auto_prob")}


def _blocks(text: str, where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for block in text.split(";"):
        match = _BLOCK.fullmatch(block)
        try:
            weight = float(match[3]) if match else -1.0
        except ValueError:
            weight = -1.0
        if match is None or not 0 <= weight < float("inf"):
            raise ConfigError(f"{where}: {block!r} is no block begin:end:weight with a weight of at least 0")
        key = f"{int(match[1])}:{int(match[2])}"
        if key in found:
            raise ConfigError(f"{where}: the block {key} is given twice")
        found[key] = weight
    return found
