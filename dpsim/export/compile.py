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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsim import ops
from dpsim.errors import SetupError
from dpsim.export.metadata import (
    FORMAT,
    KEY,
    LONG_RANGE_FORMAT,
    ElectrostaticsMetadata,
    FrozenMetadata,
    ListMetadata,
    SpinMetadata,
)
from dpsim.model.base import Model
from dpsim.model.checkpoint import state_digest
from dpsim.model.compose.dplr import DPLRModel
from dpsim.physics.neighborhood import InnerList, Neighborhood, collate
from dpsim.physics.neighbors import FrameGraph, InnerEdges, NeighborSpec, frame_graph
from dpsim.version import __version__


def describe(model: Model, device: str) -> FrozenMetadata:
    """Header of the frozen form of a model."""
    return FrozenMetadata(
        format=LONG_RANGE_FORMAT if model.long_range else FORMAT,
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
        electrostatics=_charges(model),
        digest=state_digest(model),
        **model.inputs._asdict(),
    )


def _charges(model: Model) -> ElectrostaticsMetadata | None:
    if not isinstance(model, DPLRModel):
        return None
    ion, centroid, spacing, beta = model.charges
    return ElectrostaticsMetadata(
        ion_charge=tuple(ion.tolist()), centroid_charge=tuple(centroid.tolist()), ewald_h=spacing, ewald_beta=beta
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


class _Dipoles(torch.nn.Module):
    """Dipoles of a model with electrostatics."""

    def __init__(self, model: DPLRModel) -> None:
        super().__init__()
        self.model = model

    def dipoles(self, tensors: Sequence[Tensor], displacements: Tensor) -> Tensor:
        hood = Neighborhood.from_tensors(self.model.neighbors, self.model.inputs, tensors)
        return self.model.dipoles(hood._replace(displacements=displacements))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (self.dipoles(tensors, tensors[0]).detach(),)


class _DipoleGradient(_Dipoles):
    """The same inputs and a vector for each atom: gradient of its product with the dipoles, by the edge vectors."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        *inputs, vectors = tensors
        displacements = inputs[0].detach().requires_grad_(True)
        return torch.autograd.grad((vectors * self.dipoles(inputs, displacements)).sum(), displacements)


def trace(model: Model, device: str) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """Exported program of energies and edge gradient, with symbolic sizes, and its example inputs.

    Raises
    ------
    AssertionError
        If a model for the CPU holds an operator that would be compiled wrongly: a mistake in the model's code.
    """
    inputs = example_inputs(model, device)
    return _program(_Outputs(model), inputs, device), inputs


def trace_all(model: Model, device: str) -> dict[str, torch.export.ExportedProgram]:
    """Exported programs of all graphs of a package by name; errors as of `trace`."""
    program, inputs = trace(model, device)
    programs = {"model": program}
    if isinstance(model, DPLRModel):
        vectors = torch.zeros(len(inputs[1]), 3, dtype=torch.float64, device=inputs[0].device)
        programs["dipole"] = _program(_Dipoles(model), inputs, device)
        programs["dipole_gradient"] = _program(_DipoleGradient(model), (*inputs, vectors), device)
    return programs


def _program(module: torch.nn.Module, inputs: tuple[Tensor, ...], device: str) -> torch.export.ExportedProgram:
    from torch.fx.experimental.proxy_tensor import make_fx

    module = module.to(device).eval().requires_grad_(False)
    graph = make_fx(lambda *a: module(*a), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    # of the plan, one number, the size is fixed
    per_input = tuple(None if len(tensor) == 1 else {0: torch.export.Dim.DYNAMIC} for tensor in inputs)
    program = torch.export.export(graph, inputs, dynamic_shapes=per_input, strict=False)
    if device == "cpu":
        _refuse_miscompiled(program)
    return program


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
    SetupError
        If there is no working C++ compiler, or no GPU for ``"cuda"``.
    """
    from torch._inductor.package.package import package_aoti

    check_machine(device)
    output = Path(output)
    metadata = describe(model, device)
    programs = trace_all(model, device)
    config: dict[str, Any] = {
        "aot_inductor.package": True,
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
        package_aoti(temporary, {name: _compiled(program, config) for name, program in programs.items()})
        Path(temporary).replace(output)
    return metadata


def _compiled(program: torch.export.ExportedProgram, config: dict[str, Any]) -> Any:
    """Files of a graph, as a package takes them."""
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    return torch._inductor.aot_compile(program.module(check_guards=False), args, kwargs, options=dict(config))
