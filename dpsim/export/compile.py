"""Trace a model with its edge gradient into one graph and compile it ahead of time.

``make_fx`` unrolls the differentiation first; ``torch.export`` and AOTInductor then see plain operators and
those of dpsim. Sizes stay symbolic: any number of atoms, edges and angles, zero included.
"""

from __future__ import annotations

import itertools
import math
import platform
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsim import ops
from dpsim.errors import ModelError, SetupError
from dpsim.export.metadata import KEY, FrozenMetadata, ListMetadata, SpinMetadata
from dpsim.model.base import Model
from dpsim.model.checkpoint import state_digest
from dpsim.physics.neighborhood import InnerList, Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, InnerEdges, NeighborSpec, frame_graph
from dpsim.version import __version__


def describe(model: Model, device: str) -> FrozenMetadata:
    """Header of the frozen form of a model."""
    return FrozenMetadata(
        type_map=model.type_map,
        neighbors=ListMetadata.of(model.neighbors),
        dtype=model.precision,
        message_passing_layers=model.message_passing_layers,
        device=device,
        torch=torch.__version__,
        dpsim=__version__,
        output=model.output,
        output_shape=model.output_shape,
        intensive=model.intensive,
        property_name=model.property_name,
        atom_exclude_types=model.atom_exclude_types,
        spin=None if model.spin is None else SpinMetadata(virtual_scale=model.spin),
        digest=state_digest(model),
        **model.inputs._asdict(),
    )


_FRAMES = 4
"""Frames of the example; parameters of a single one would be taken for a constant size."""


def example_inputs(model: Model, device: str) -> tuple[Tensor, ...]:
    """A neighbourhood whose sizes all differ, so that tracing keeps them apart.

    What stands in the inner lists follows no rule but that of their sizes.
    """
    rng = np.random.default_rng(0)
    spec, inputs = model.neighbors, model.inputs
    n_atoms, n_lists = 11, sum(1 for _ in spec.walk())
    for _ in range(200):
        graph = _example_graph(spec, model.n_row_types, n_atoms, rng)
        spare = graph.n_edges - n_atoms - 3 * n_lists
        if spare < 20:
            n_atoms += max(1, n_lists // 8)
            continue
        sizes = itertools.count(graph.n_edges - int(rng.integers(2, spare - 10)), -3)
        hood = collate([replace(graph, inner=_sized(spec, graph.n_edges, sizes, rng))])
        extra = torch.zeros(5, dtype=torch.int64)  # remote rows, as on several ranks
        hood = hood._replace(
            row_types=torch.cat([hood.types, extra]),
            frame=torch.arange(n_atoms) * _FRAMES // n_atoms,
            fparam=torch.zeros(_FRAMES, inputs.n_fparam, dtype=torch.float64) if inputs.n_fparam else None,
            aparam=torch.zeros(n_atoms, inputs.n_aparam, dtype=torch.float64) if inputs.n_aparam else None,
            charge_spin=torch.tensor([[0.0, 1.0]] * _FRAMES, dtype=torch.float64) if inputs.charge_spin else None,
        )
        if _sizes_differ(hood):
            return hood.to(device).tensors()
        n_atoms += 1
    raise AssertionError(f"no example with lists of different sizes was found for {spec}")


def _example_graph(spec: NeighborSpec, n_types: int, n_atoms: int, rng: np.random.Generator) -> FrameGraph:
    """Atoms near a grid, some twenty neighbours each."""
    side = 0.62 * min(one.cutoff for one in spec.walk())
    edge = math.ceil(n_atoms ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    positions = (grid + rng.uniform(-0.1, 0.1, (n_atoms, 3))) * side
    return frame_graph(positions, rng.integers(0, n_types, n_atoms), None, spec)


def _sized(spec: NeighborSpec, around: int, sizes: Iterator[int], rng: np.random.Generator) -> tuple[InnerEdges, ...]:
    """Inner lists of a list of `around` edges: any of these edges, as many as `sizes` says next."""
    lists = []
    for one in spec.inner:
        size = next(sizes)
        edge = np.sort(rng.permutation(around)[:size]).astype(np.int64)
        lists.append(InnerEdges(edge, _sized(one, len(edge), sizes, rng)))
    return tuple(lists)


def _sizes_differ(hood: Neighborhood) -> bool:
    """Whether no two of atoms, rows, edges and pairs of all lists are as many, or as many as pointers."""
    sizes = [_FRAMES, len(hood.types), len(hood.row_types), len(hood.center)]
    lists: list[Neighborhood | InnerList] = [hood]
    while lists:
        one = lists.pop()
        sizes += [len(one.pairs.ij)] if one.pairs else []
        sizes += [len(inner.edge) for inner in one.inner]
        lists += one.inner
    ends = [size for n in sizes for size in (n, n + 1)]
    return len(set(ends)) == len(ends) and min(sizes) > 1


class _Outputs(torch.nn.Module):
    """What is frozen: atomic energies and the gradient with respect to the edge vectors, or atomic values alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        hood = Neighborhood.from_tensors(self.model.neighbors, self.model.inputs, tensors)
        if self.model.output != "energy":
            atomic = self.model(hood).detach()
            return (atomic.reshape(atomic.shape[0], math.prod(self.model.output_shape)),)
        displacements = hood.displacements.detach().requires_grad_(True)
        atomic = self.model(hood._replace(displacements=displacements))
        (gradient,) = torch.autograd.grad(atomic.sum(), displacements)
        return atomic.detach(), gradient


def trace(model: Model, device: str) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """Exported program of energies and edge gradient, with symbolic sizes.

    Raises
    ------
    AssertionError
        If a model for the CPU holds an operator that would be compiled wrongly: a mistake in the model's code.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    inputs = example_inputs(model, device)
    module = _Outputs(model.to(device).eval().requires_grad_(False))
    graph = make_fx(lambda *a: module(*a), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    dynamic = {0: torch.export.Dim.DYNAMIC}
    per_input = (*(dynamic for _ in inputs[:-1]), None)
    program = torch.export.export(graph, inputs, dynamic_shapes=per_input, strict=False)
    if device == "cpu":
        _refuse_miscompiled(program)
    return program, inputs


# AOTInductor of torch 2.13 compiles these to wrong numbers on the CPU, without a word, once the graph around them is
# large enough: rows added by index lose contributions. The adjoint of `index_select`, and of indexing by a tensor, is
# one of them, so code that is differentiated gathers with `dpsim.ops.gather_rows` and adds with `scatter_rows`.
_MISCOMPILED = {"index_add", "index_put", "scatter_add"}


def _refuse_miscompiled(program: torch.export.ExportedProgram) -> None:
    names = {str(node.target).removeprefix("aten.").split(".")[0].strip("_") for node in program.graph.nodes}
    found = sorted(_MISCOMPILED & {name.removeprefix("unsafe_") for name in names})
    if found:
        raise AssertionError(
            f"the graph holds aten.{', aten.'.join(found)}, which torch {torch.__version__} compiles wrongly on CPUs: "
            "use dpsim.ops.gather_rows and scatter_rows where index_select or indexing is differentiated"
        )


def check_machine(device: str) -> None:
    """Refuse a machine that cannot compile for a device.

    Raises
    ------
    SetupError
        If there is no compiler, or no GPU for ``"cuda"``.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError("device 'cuda' was asked for, but torch sees no GPU here: freeze with --device cpu")
    if not ops.load():
        raise SetupError(f"a model cannot be frozen without dpsim's operators: {ops.unavailable_reason()}")


def compile_model(model: Model, output: str | Path, *, device: str = "cpu") -> FrozenMetadata:
    """Compile a model into a ``.pt2`` package.

    Parameters
    ----------
    output
        Path of the package; replaced only when it is complete.
    device
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ModelError
        If the model has electrostatics.
    SetupError
        If there is no working C++ compiler, or no GPU for ``"cuda"``.
    """
    if model.long_range:
        raise ModelError(
            "a model with electrostatics cannot be frozen, as its energy is no function of neighbours: use it from "
            "Python or ASE, or freeze its parts, the `models` of dpsim.model.checkpoint.load_model, each by itself"
        )
    check_machine(device)
    output = Path(output)
    metadata = describe(model, device)
    program, _ = trace(model, device)
    config: dict[str, Any] = {
        "aot_inductor.metadata": {KEY: metadata.model_dump_json()},
        "cpp.dynamic_threads": True,
        # portable within x86-64-v3 machines; the operators themselves are built for the machine that runs them
        "cpp.simdlen": 256,
        "cpp.march": "x86-64-v3",
    }
    if platform.machine() not in ("x86_64", "amd64"):
        del config["cpp.simdlen"], config["cpp.march"]
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inductor's own deprecations are no news to the user
        temporary = str(Path(folder) / output.name)
        torch._inductor.aoti_compile_and_package(program, package_path=temporary, inductor_configs=config)
        Path(temporary).replace(output)
    return metadata
