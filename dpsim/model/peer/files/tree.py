"""Containers of DeePMD-kit's serialised models, ``.dp`` (HDF5) and ``.yaml`` (spec common.md §17).

Both hold one tree of settings in which everything below a key ``@variables`` is an array.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.data.files import new_file
from dpsim.errors import ModelError

SUFFIXES = (".dp", ".yaml", ".yml")


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


def write_tree(tree: Mapping[str, Any], path: str | Path) -> Path:
    """Write a model tree, atomically; the suffix chooses the container.

    Raises
    ------
    ModelError
        If the suffix is of neither container.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: serialised DeePMD-kit models end in {', '.join(SUFFIXES)}")
    with new_file(path) as temporary:
        (_write_dp if path.suffix == ".dp" else _write_yaml)(tree, temporary)
    return path


def _read_dp(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        tree = json.loads(file.attrs["json"])
        return _resolve(tree, lambda value: file[value][()] if isinstance(value, str) else value)


def _write_dp(tree: Mapping[str, Any], path: Path) -> None:
    import h5py

    arrays: list[np.ndarray] = []

    def dataset(value: Any) -> str:
        arrays.append(np.asarray(value))
        return f"/variable_{len(arrays) - 1:04d}"

    text = json.dumps(_resolve(tree, dataset), default=_plain)
    with h5py.File(path, "w") as file:
        for number, array in enumerate(arrays):
            file.create_dataset(f"variable_{number:04d}", data=array)
        file.attrs.create("json", text, dtype=h5py.string_dtype())


def _read_yaml(path: Path) -> Any:
    import yaml

    tree = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def array(value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("@class") == "np.ndarray":
            return np.asarray(value["value"], dtype=value["dtype"])
        return value

    return _resolve(tree, array)


def _write_yaml(tree: Mapping[str, Any], path: Path) -> None:
    import yaml

    def node(value: Any) -> dict[str, Any]:
        array = np.asarray(value)
        facts = {"@class": "np.ndarray", "@is_variable": True, "@version": 1, "dtype": array.dtype.name}
        return facts | {"value": array.tolist()}

    plain = json.loads(json.dumps(_resolve(tree, node), default=_plain))
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(plain, file, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot stand among the settings of a model")


def _resolve(node: Any, array: Callable[[Any], Any], variables: bool = False) -> Any:
    if isinstance(node, Mapping) and not (variables and "@class" in node):
        return {key: _resolve(value, array, variables or key == "@variables") for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_resolve(value, array, variables) for value in node]
    return array(node) if variables and node is not None else node
