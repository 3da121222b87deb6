"""Compiled code that models of the same settings share: their files differ in the parameters alone.

The graph of a frozen model is compiled with all parameters as data, none of them part of the code. So for another model
of the same settings (retrained, with another seed, of an ensemble) the library that is there is copied, and the bytes
of its parameters are replaced: but for the mark of the linker, the library is the one that compiling would have made.
Libraries lie in ``$XDG_CACHE_HOME/dpsim/frozen`` or ``~/.cache/dpsim/frozen``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch.export import ExportedProgram

from dpsim.config import Config
from dpsim.data.files import digest_of
from dpsim.model.base import Model
from dpsim.model.tensors import described, tensors_of
from dpsim.native.cache import cache_root, locked, remove_unused, used
from dpsim.native.identity import base_key, code_key, compiler_key, find_compiler, torch_build

FORMAT = 1
KEPT = 64
"""Codes that are kept, those last used."""
OPTIONS = {"always_keep_tensor_constants": True, "joint_graph_constant_folding": False}
"""Settings of Inductor by which no value of a parameter becomes part of the code."""
_ROOMS = ("descriptors", "export", "fittings", "model", "nn", "ops", "physics")
"""Folders of dpsim whose code decides what is compiled."""
_DIGITS = 24
"""Of a key."""
_LAYOUT = "layout.json"
_ALIGNMENT = 64
"""Each parameter of a library begins at a multiple of this many bytes."""
_CONSTANT = re.compile(r'constants_info_\[\d+\]\.original_fqn = "([^"]+)";')
"""Where the source of a library names its constants, in their order."""


class Library(Config):
    """A compiled graph."""

    files: dict[str, str]
    """Names, as a package takes them, with the digest of each: a library that is cut short would end the process."""
    library: str
    """The one among them that holds the parameters."""
    start: int
    """Where they begin in it."""
    tensors: tuple[str, ...]
    """Their names in the model, in their order."""


class Layout(Config):
    """What is known of kept code."""

    graphs: dict[str, Library]


def key_of(model: Model, options: Mapping[str, Any]) -> str:
    """Name of all that the code of a frozen model depends on.

    Parameters
    ----------
    options
        Of the compiler.

    Raises
    ------
    SetupError
        If there is no C++ compiler.
    """
    environment = (torch_build(), compiler_key(find_compiler()), base_key("ops"), code_key(_ROOMS))
    facts = [FORMAT, model.config.model_dump(mode="json"), described(model), dict(options), environment]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_DIGITS]


class KeptCode:
    """The place of the code of one key."""

    def __init__(self, key: str) -> None:
        self.folder = cache_root() / "frozen" / key

    @property
    def usable(self) -> bool:
        """Whether code can be kept on this machine."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
        return os.access(self.folder.parent, os.W_OK)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the place: others that want the same code wait, and find it."""
        with locked(self.folder.with_suffix(".lock"), lambda _: None):
            yield

    @contextlib.contextmanager
    def workshop(self) -> Iterator[Path]:
        """A folder to compile in; its path is the same for all, as it becomes part of the code."""
        shutil.rmtree(self._work, ignore_errors=True)  # of a process that was killed; nobody else holds the lock
        self._work.mkdir()
        try:
            yield self._work
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    @property
    def _work(self) -> Path:
        return self.folder.with_suffix(".work")

    def files_for(self, model: Model, target: Path, metadata: Mapping[str, str]) -> dict[str, list[str]] | None:
        """Copy the code with the parameters of a model.

        Parameters
        ----------
        target
            Folder that receives the files.
        metadata
            What the files shall say about the model.

        Returns
        -------
        dict or None
            Files by graph, ready for a package; None where there is no such code.
        """
        try:
            layout = Layout.model_validate_json((self.folder / _LAYOUT).read_text())
            found = {name: self._copied(name, one, model, target, metadata) for name, one in layout.graphs.items()}
        except (OSError, ValidationError):
            return None
        used(self.folder)
        return found

    def _copied(self, name: str, graph: Library, model: Model, target: Path, metadata: Mapping[str, str]) -> list[str]:
        (target / name).mkdir()
        for file, digest in graph.files.items():
            content = (self.folder / name / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise OSError(f"{self.folder / name / file} is damaged")
            if file == graph.library:
                values = _values(model, graph.tensors)
                content = content[: graph.start] + values + content[graph.start + len(values) :]
            elif file.endswith("_metadata.json"):
                content = json.dumps(json.loads(content) | dict(metadata)).encode()
            (target / name / file).write_bytes(content)
        return [str(target / name / file) for file in graph.files]

    def keep(self, model: Model, files: Mapping[str, Sequence[str]], programs: Mapping[str, ExportedProgram]) -> None:
        """Keep the code that was compiled for a model, if its parameters are found in it."""
        graphs = {}
        for name, program in programs.items():
            graph = _library(model, [Path(file) for file in files[name]], program)
            if graph is None:
                return
            graphs[name] = graph
        staged = self._work / "kept"
        with contextlib.suppress(OSError):
            for name, paths in files.items():
                (staged / name).mkdir(parents=True)
                for path in paths:
                    shutil.copyfile(path, staged / name / Path(path).name)
            (staged / _LAYOUT).write_text(Layout(graphs=graphs).model_dump_json())
            self.forget()
            os.replace(staged, self.folder)
        remove_unused(self.folder.parent, "[0-9a-f]" * _DIGITS, KEPT)

    def forget(self) -> None:
        """Remove the code."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _library(model: Model, files: Sequence[Path], program: ExportedProgram) -> Library | None:
    """Where the parameters lie in a compiled graph; None if that cannot be told beyond doubt."""
    (library,) = (path for path in files if path.suffix == ".so")
    (source,) = (path for path in files if path.name.endswith(".wrapper.cpp"))
    constants = {**program.state_dict, **program.constants}
    names = {tensor.data_ptr(): name for name, tensor in tensors_of(model).items()}
    listed = [constants.get(name) for name in _CONSTANT.findall(source.read_text())]
    tensors = [None if constant is None else names.get(constant.data_ptr()) for constant in listed]
    found = tuple(name for name in tensors if name is not None)
    if not found or len(found) < len(tensors):
        return None
    values, content = _values(model, found), library.read_bytes()
    start = content.find(values)
    if start < 0 or content.find(values, start + 1) >= 0:
        return None
    return Library(
        files={path.name: digest_of(path) for path in files}, library=library.name, start=start, tensors=found
    )


def _values(model: Model, names: Sequence[str]) -> bytes:
    """The bytes of parameters as they lie in a library."""
    tensors, values = tensors_of(model), bytearray()
    for name in names:
        values += tensors[name].detach().cpu().contiguous().numpy().tobytes()
        values += bytes(-len(values) % _ALIGNMENT)
    return bytes(values)
