"""The process that compiles: ``python -m dpsim.train.compile.worker PACKAGE``, the request on standard input."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dpsim import ops
from dpsim.model.base import Model
from dpsim.model.config import read_config
from dpsim.model.tensors import described
from dpsim.train.compile.graph import METADATA, Halves, Unsupported, trace_halves
from dpsim.train.compile.package import UNSUPPORTED, Request


def make_package(request: Request, path: Path) -> None:
    """Trace, compile and write a package under its name.

    Raises
    ------
    Unsupported
        If the step cannot be compiled.
    """
    ops.load()
    model = model_of(request)
    halves = trace_halves(model, request.derivatives, request.products)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        temporary = str(Path(folder, path.name))
        _package(halves, folder, temporary)
        os.replace(temporary, path)


def model_of(request: Request) -> Model:
    """A model of these settings, on the device; the values of its parameters do not matter."""
    model: Any = read_config(request.model).build(0).to(request.device)
    trained = {name for name, *_, wanted in request.tensors if wanted}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if described(model) != request.tensors:
        raise Unsupported("its parameters are not those that follow from its settings")
    found: Model = model
    return found


def _package(halves: Halves, folder: str, path: str) -> None:
    """Compile both graphs into one file."""
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    files: dict[str, Any] = {}
    for name, graph in (("forward", halves.forward), ("backward", halves.backward)):
        inputs = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
        options: dict[str, Any] = {
            "aot_inductor.package": True,
            "aot_inductor.output_path": str(Path(folder, name)),
            "aot_inductor.metadata": {METADATA: halves.layout.model_dump_json()},
            "cpp.dynamic_threads": True,
        }
        files[name] = aot_compile(graph, inputs, options=options)
    package_aoti(path, files)


def main() -> int:
    """Compile what standard input asks for."""
    request = Request.model_validate_json(sys.stdin.read())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            make_package(request, Path(sys.argv[1]))
    except Unsupported as error:
        print(error)
        return UNSUPPORTED
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
