"""Weights and settings of a frozen DeePMD-kit model, ``.pth``, without running the program in it (spec common.md §19).

A ``.pth`` is a zip archive: ``data.pkl`` is a pickle of the tree of modules, ``data/<n>`` are the numbers, ``code/``
is a program. Here the pickle is read by an unpickler that knows tensors and nothing else: modules become plain
bags of attributes. The program is only searched for the names of parameters and buffers.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.errors import ModelError
from dpsim.model.peer.family import Arrays

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
_CLASS = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*?)\]\n  __buffers__ = \[(.*?)\]", re.MULTILINE)


def read_torchscript(path: str | Path) -> tuple[dict[str, Any], Arrays]:
    """Model section and torch state of a ``.pth``; nothing in the file is executed.

    Raises
    ------
    ModelError
        If the file is missing, damaged, no frozen model of DeePMD-kit, or holds objects that are no part of one.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    try:
        with zipfile.ZipFile(path) as archive:
            tree, registered = _tree(archive)
    except _RefusedError as error:
        raise ModelError(f"{path} holds {error}, which is no part of a model: it is not read") from None
    except Exception as error:  # any complaint of zip, pickle or numpy means the same to the user
        raise ModelError(
            f"{path} is not a frozen DeePMD-kit model, or is damaged ({type(error).__name__}): copy or freeze it again"
        ) from None
    script = _script(tree)
    try:
        section = json.loads(script) if isinstance(script, str) else None
    except ValueError:
        section = None
    if not isinstance(section, dict) or not section:
        raise ModelError(f"{path}: expected the model's settings in 'model_def_script', found none")
    return section, dict(_tensors(tree, registered))


def _script(tree: Any) -> Any:
    """Text of the settings; a spin model leaves them to the model within."""
    if not isinstance(tree, _Module):
        return None
    return vars(tree).get("model_def_script") or _script(vars(tree).get("backbone_model"))


class _RefusedError(pickle.UnpicklingError):
    """Something in the pickle that a model does not need."""


class _Module:
    """A module or any other object of the program: its attributes."""

    torch_class = ""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _RefusedError(f"a state of type {type(state).__name__}")
        self.__dict__.update({str(name): value for name, value in state.items()})


class _Unpickler(pickle.Unpickler):
    """Reads tensors, lists and bags of attributes; every other global is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few names that are known."""
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{("torch.jit._pickle", build): list for build in _LISTS},
        }
        if (module, name) in known:
            return known[module, name]
        full = f"{module}.{name}"
        if not full.startswith("__torch__."):
            raise _RefusedError(f"the object {full!r}")
        return self._classes.setdefault(full, type(name, (_Module,), {"torch_class": full}))

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Numbers of one storage."""
        _, dtype, key, _, size = pid
        values = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), dtype=dtype)
        if len(values) != size:
            raise ValueError(f"storage {key} has {len(values)} numbers, expected {size}")
        return values


def _tensor(storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    shape, strides = tuple(int(n) for n in shape), tuple(int(n) for n in strides)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if offset < 0 or min((*shape, *strides), default=0) < 0 or (0 not in shape and last >= len(storage)):
        raise ValueError("a tensor reaches outside its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _tree(archive: zipfile.ZipFile) -> tuple[Any, dict[str, set[str]]]:
    """Root object, and by class the names of its parameters and buffers."""
    (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl") and name.count("/") == 1]
    root = pickled.removesuffix("data.pkl")
    registered: dict[str, set[str]] = {}
    for name in archive.namelist():
        if name.startswith(f"{root}code/") and name.endswith(".py"):
            module = name.removeprefix(f"{root}code/").removesuffix(".py").replace("/", ".")
            for found in _CLASS.finditer(archive.read(name).decode()):
                registered[f"{module}.{found[1]}"] = set(re.findall(r'"([^"]+)"', found[2] + found[3]))
    return _Unpickler(archive, root).load(), registered


def _tensors(module: _Module, registered: dict[str, set[str]], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    names = registered.get(module.torch_class, set())
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _tensors(value, registered, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray) and name in names:
            yield prefix + name, value
