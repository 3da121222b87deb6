"""Reader of DeePMD-kit's serialised models, ``.dp`` (HDF5) and ``.yaml`` (spec common.md §17).

Both hold one tree of settings in which everything below a key ``@variables`` is an array. Only known classes
and versions are accepted, and every key of a section must be known to whoever takes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.errors import ModelError


def read_tree(path: str | Path) -> dict[str, Any]:
    """Model tree of a ``.dp``, ``.yaml`` or ``.yml`` file, arrays in place.

    Raises
    ------
    ModelError
        If the file is missing, damaged or no serialised model.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    try:
        tree = _read_dp(path) if path.suffix == ".dp" else _read_yaml(path)
    except ModelError:
        raise
    except Exception as error:  # any parser's complaint means the same to the user
        raise ModelError(
            f"{path} is not a serialised DeePMD-kit model, or is damaged ({type(error).__name__})"
        ) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ModelError(f"{path}: expected a section 'model' in a serialised DeePMD-kit model, found none")
    return tree


def _read_dp(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        tree = json.loads(file.attrs["json"])
        return _resolve(tree, lambda value: file[value][()] if isinstance(value, str) else value)


def _read_yaml(path: Path) -> Any:
    import yaml

    tree = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def array(value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("@class") == "np.ndarray":
            return np.asarray(value["value"], dtype=value["dtype"])
        return value

    return _resolve(tree, array)


def _resolve(node: Any, array: Any, variables: bool = False) -> Any:
    if isinstance(node, dict) and not (variables and "@class" in node):
        return {key: _resolve(value, array, variables or key == "@variables") for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(value, array, variables) for value in node]
    return array(node) if variables and node is not None else node


class Section:
    """One section of a tree: every key must be taken, so that nothing is silently ignored."""

    def __init__(self, node: Any, where: str) -> None:
        if not isinstance(node, Mapping):
            raise ModelError(f"{where}: expected a section, found {type(node).__name__}")
        self.node, self.where = dict(node), where
        self.variables = dict(self.node.pop("@variables", None) or {})

    def expect(self, class_name: str, versions: tuple[int, ...]) -> None:
        """Check class and version of the section."""
        found, version = self.node.pop("@class", class_name), self.node.pop("@version", versions[-1])
        if found != class_name or version not in versions:
            raise ModelError(
                f"{self.where}: class {found!r} version {version!r} is not known: expected {class_name!r} version "
                f"{' or '.join(map(str, versions))}"
            )

    def take(self, key: str, default: Any = ...) -> Any:
        """Remove and return a setting."""
        if key not in self.node:
            if default is ...:
                raise ModelError(f"{self.where}: the key {key!r} is missing: the file is damaged")
            return default
        return self.node.pop(key)

    def section(self, key: str) -> Section:
        """Remove and return a subsection."""
        return Section(self.take(key), f"{self.where}.{key}")

    def ignore(self, *keys: str) -> None:
        """Drop settings that carry no numbers for an evaluation."""
        for key in keys:
            self.node.pop(key, None)

    def require(self, **values: Any) -> None:
        """Remove settings that are only supported with one value."""
        for key, expected in values.items():
            found = self.node.pop(key, expected)
            if found != expected and not (not found and not expected):
                raise ModelError(f"{self.where}.{key}: {found!r} is not supported: only {expected!r} is")

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self.node:
            raise ModelError(f"{self.where}: the keys {sorted(self.node)} are not known to dpsim")


def layer_state(node: Any, where: str, prefix: str) -> dict[str, np.ndarray]:
    """Tensors of a ``Layer``: ``<prefix>weight`` and, where present, ``bias`` and ``idt``."""
    section = Section(node, where)
    section.expect("Layer", (1, 2))
    names = {"w": "weight", "b": "bias", "idt": "idt"}
    return {prefix + names[key]: value for key, value in section.variables.items() if value is not None}
