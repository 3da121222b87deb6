"""Sections of the peer's files and inputs: every key must be taken, so that nothing is silently ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpsim.errors import ConfigError, DpsimError, ModelError

_MISSING: Any = object()


class Section:
    """One section of a serialised model.

    Parameters
    ----------
    node
        Its keys and values; what stands below ``@variables`` are arrays.
    where
        File and keys that lead to it, for messages.
    """

    error: type[DpsimError] = ModelError
    _hint = "the file is damaged"

    def __init__(self, node: Any, where: str) -> None:
        if not isinstance(node, Mapping):
            raise self.error(f"{where}: expected a section, found {type(node).__name__}")
        self.node, self.where = dict(node), where
        self.variables: dict[str, Any] = dict(self.node.pop("@variables", None) or {})

    def __contains__(self, key: str) -> bool:
        return key in self.node

    def expect(self, class_name: str, versions: tuple[int, ...]) -> int:
        """Check class and version of the section; the version is returned (the newest where none is written)."""
        found, version = self.node.pop("@class", class_name), self.node.pop("@version", versions[-1])
        if found != class_name or version not in versions:
            raise ModelError(
                f"{self.where}: class {found!r} version {version!r} is not known: expected {class_name!r} version "
                f"{' or '.join(map(str, versions))}"
            )
        return int(version)

    def take(self, key: str, default: Any = _MISSING, *, alias: tuple[str, ...] = ()) -> Any:
        """Remove and return a setting, which may also be written under other names."""
        written = [name for name in (key, *alias) if name in self.node]
        if len(written) > 1:
            raise self.error(f"{self.where}: {written[0]!r} and {written[1]!r} mean the same: give one of them")
        if written:
            return self.node.pop(written[0])
        if default is _MISSING:
            raise self.error(f"{self.where}: the key {key!r} is missing: {self._hint}")
        return default

    def section(self, key: str, *, alias: tuple[str, ...] = ()) -> Section:
        """Remove and return a subsection."""
        return type(self)(self.take(key, alias=alias), f"{self.where}.{key}")

    def sections(self, key: str) -> list[Section]:
        """Remove and return a list of subsections."""
        nodes = self.take(key)
        if not isinstance(nodes, list):
            raise self.error(f"{self.where}.{key}: expected a list of sections, found {type(nodes).__name__}")
        return [type(self)(node, f"{self.where}.{key}[{index}]") for index, node in enumerate(nodes)]

    def array(self, name: str, default: Any = _MISSING) -> Any:
        """Remove and return an array (None where the file has null)."""
        if name not in self.variables:
            if default is _MISSING:
                raise self.error(f"{self.where}: the array {name!r} is missing: {self._hint}")
            return default
        value = self.variables.pop(name)
        return value if value is None or isinstance(value, list) else np.asarray(value)

    def ignore(self, *keys: str) -> None:
        """Drop settings that carry no numbers for an evaluation."""
        for key in keys:
            self.node.pop(key, None)

    def ignore_arrays(self, *names: str) -> None:
        """Drop arrays that carry no numbers for an evaluation."""
        for name in names:
            self.variables.pop(name, None)

    def require(self, **values: Any) -> None:
        """Remove settings that are only supported with one value."""
        for key, expected in values.items():
            found = self.node.pop(key, expected)
            if found != expected and not (not found and not expected):
                raise self.error(f"{self.where}.{key}: {found!r} is not supported: only {expected!r} is")

    def finish(self) -> None:
        """Refuse what nobody took."""
        left = sorted([*self.node, *(name for name, value in self.variables.items() if value is not None)])
        if left:
            raise self.error(f"{self.where}: {_keys(left)} not known to dpsim")


class InputSection(Section):
    """One section of the peer's input: keys that begin with an underscore are comments."""

    error: type[DpsimError] = ConfigError
    _hint = "it has no default"

    def __init__(self, node: Any, where: str) -> None:
        super().__init__(node, where)
        self.node = {key: value for key, value in self.node.items() if not str(key).startswith("_")}
        if self.variables:
            self.node["@variables"] = self.variables
            self.variables = {}

    def for_training(self, training: bool, notes: list[str]) -> None:
        """Take the keys ``trainable`` and ``seed``, which say nothing about a model that is only evaluated.

        Raises
        ------
        ConfigError
            If the section is to be kept from training.
        """
        trainable, seed = self.take("trainable", True), self.take("seed", None)
        frozen = trainable is False or (isinstance(trainable, list) and not all(trainable))
        if training and frozen:
            raise self.error(
                f"{self.where}.trainable: {trainable!r} is not taken here: name the part in `frozen` of the training"
            )
        if training and seed is not None:
            notes.append(f"{self.where}.seed: one seed serves all parts, that of 'training'")


class StoredInput(InputSection):
    """The input section that a checkpoint keeps: as `InputSection`, but it is a file that is at fault."""

    error = ModelError


def _keys(names: list[str]) -> str:
    return f"the key {names[0]!r} is" if len(names) == 1 else f"the keys {names} are"
