"""The cache key of a task: what it is, what it is told, what it is given, and nothing else.

``key = BLAKE2b-160(canonical JSON of type, result_version, expanded options, input digests, seed)``. The number
of ranks, the machine and the names of stages and files are not in it; versions of packages are recorded
beside the result and enter only under ``cache: strict``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from dpsim.workflow.records.digest import canonical_json, digest_bytes
from dpsim.workflow.stage import Stage


@dataclass(frozen=True)
class Key:
    """A cache key with what it was made from."""

    type: str
    result_version: int
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Digest of each input artifact by its place in the stage."""
    seed: int | None
    soft: Mapping[str, str] = field(default_factory=dict)
    """Versions of packages; part of the key only if `strict`."""
    strict: bool = False
    work_parts: Mapping[str, Any] = field(default_factory=dict)
    """What the work folder depends on; by default all of the key."""

    def parts(self) -> dict[str, Any]:
        """Return what is hashed."""
        hashed = {
            "type": self.type,
            "result_version": self.result_version,
            "options": dict(self.options),
            "inputs": dict(self.inputs),
            "seed": self.seed,
        }
        return {**hashed, "soft": dict(self.soft)} if self.strict else hashed

    @property
    def digest(self) -> str:
        """The key, 40 hexadecimal digits."""
        return digest_bytes(canonical_json(self.parts()))

    @property
    def work_digest(self) -> str:
        """Key of the work folder: as `digest`, without what the work may outlive."""
        return digest_bytes(canonical_json(dict(self.work_parts) or self.parts()))


def make_key(
    stage: Stage, inputs: Mapping[str, str], *, type_map: Sequence[str], seed: int | None, device: str | None = None
) -> Key:
    """Return the key of a stage.

    Parameters
    ----------
    stage
        With references; they are blanked.
    inputs
        Digest of each input artifact by its place in the stage, for example ``from.0``.
    type_map
        Elements; in the key of stages that use them.
    seed
        None if nothing in the stage is random.
    device
        Kind of device that it would use, recorded as versions of packages are; None if it cannot use another.
    """
    options = stage.key_options()
    if stage.uses_type_map:
        options["type_map"] = list(type_map)
    soft = soft_keys(("dpsim", *stage.soft))
    soft |= {"device": device} if device else {}
    precision = getattr(stage, "precision", None)
    soft |= {"dtype": str(precision)} if precision else {}
    strict = stage.cache == "strict"
    key = Key(stage.uses, stage.result_version, options, dict(sorted(inputs.items())), seed, soft, strict)
    return replace(key, work_parts=stage.work_parts(key.parts()))


def soft_keys(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages, read without importing them."""
    return {name: version_of(name) for name in packages}


@cache
def version_of(package: str) -> str:
    """Return the version of an installed package, ``absent`` if it is not installed."""
    if package == "dpsim":
        from dpsim import __version__

        return __version__
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say which parts of a key differ, one short phrase each; both as `Key.parts` gives them."""
    reasons = []
    if old.get("result_version") != new.get("result_version"):
        reasons.append(
            f"results of this dpsim differ (version {old.get('result_version')} -> {new.get('result_version')})"
        )
    for place in _differing(old.get("options", {}), new.get("options", {})):
        before, after = _get(old.get("options", {}), place), _get(new.get("options", {}), place)
        reasons.append(f"option {'.'.join(place)}: {_short(before)} -> {_short(after)}")
    before_inputs, after_inputs = old.get("inputs", {}), new.get("inputs", {})
    for name in sorted({*before_inputs, *after_inputs}):
        if before_inputs.get(name) != after_inputs.get(name):
            how = "added" if name not in before_inputs else "removed" if name not in after_inputs else "changed"
            reasons.append(f"input {name} {how}")
    if old.get("seed") != new.get("seed"):
        reasons.append(f"seed {old.get('seed')} -> {new.get('seed')}")
    for name in sorted({*old.get("soft", {}), *new.get("soft", {})} if "soft" in old and "soft" in new else ()):
        if old["soft"].get(name) != new["soft"].get(name):
            reasons.append(f"{name} {old['soft'].get(name)} -> {new['soft'].get(name)}")
    return reasons


_ABSENT = object()


def _differing(old: Any, new: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [p for key in keys for p in _differing(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, str(key)))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [p for index, (a, b) in enumerate(pairs) for p in _differing(a, b, (*path, str(index)))]
    return [] if old == new else [path]


def _get(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(value, list):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part, _ABSENT)
    return value


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = canonical_json(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."
