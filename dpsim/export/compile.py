"""Trace a model with its edge gradient into one graph and compile it ahead of time.

``make_fx`` unrolls the differentiation first; ``torch.export`` and AOTInductor then see plain operators and
those of dpsim. Sizes stay symbolic: any number of atoms, edges and angles, zero included.
"""

from __future__ import annotations

import logging
import math
import platform
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpsim import ops
from dpsim.errors import SetupError
from dpsim.export.kept_code import OPTIONS, KeptCode, key_of
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
from dpsim.model.example import example_neighborhood, structures
from dpsim.physics.neighborhood import Neighborhood
from dpsim.version import __version__

log = logging.getLogger("dpsim.export")

COMPARED = (23, 9)
"""Atoms of the structures for which kept code is compared with the model."""
AGREEMENT = {"float64": 1e-9, "float32": 1e-3}
"""Largest difference between kept code and the model, relative to the largest number of a tensor."""


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


def example_inputs(model: Model, device: str) -> tuple[Tensor, ...]:
    """Tensors of a neighbourhood whose sizes all differ (`dpsim.model.example`)."""
    return example_neighborhood(model).to(device).tensors()


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


def graphs_of(model: Model, inputs: tuple[Tensor, ...]) -> dict[str, tuple[torch.nn.Module, tuple[Tensor, ...]]]:
    """What is compiled of a model, by the name that it has in a package, each with the inputs of a neighbourhood."""
    graphs: dict[str, tuple[torch.nn.Module, tuple[Tensor, ...]]] = {"model": (_Outputs(model), inputs)}
    if isinstance(model, DPLRModel):
        vectors = torch.zeros(len(inputs[1]), 3, dtype=torch.float64, device=inputs[0].device)
        graphs["dipole"] = (_Dipoles(model), inputs)
        graphs["dipole_gradient"] = (_DipoleGradient(model), (*inputs, vectors))
    return graphs


def trace(model: Model, device: str) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """Exported program of energies and edge gradient, with symbolic sizes, and its example inputs.

    Raises
    ------
    AssertionError
        If a model for the CPU holds an operator that would be compiled wrongly: a mistake in the model's code.
    """
    module, inputs = graphs_of(model, example_inputs(model, device))["model"]
    return _program(module, inputs, device), inputs


def trace_all(model: Model, device: str) -> dict[str, torch.export.ExportedProgram]:
    """Exported programs of all graphs of a package by name; errors as of `trace`."""
    graphs = graphs_of(model, example_inputs(model, device))
    return {name: _program(module, inputs, device) for name, (module, inputs) in graphs.items()}


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
    check_machine(device)
    output = Path(output)
    model.to(device).eval().requires_grad_(False)
    metadata = describe(model, device)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inductor's own deprecations are no news to the user
        temporary = Path(folder) / output.name
        said = {KEY: metadata.model_dump_json()}
        place = None if device != "cpu" else _place(model)
        if place is None:
            _package(temporary, _compiled(trace_all(model, device), temporary.parent, said))
        else:
            with place.alone():
                _write_with_kept_code(place, model, said, temporary)
        temporary.replace(output)
    return metadata


def _place(model: Model) -> KeptCode | None:
    """Where the code of a model is kept; None on a machine that cannot keep any."""
    place = KeptCode(key_of(model, _options()))
    return place if place.usable else None


def _write_with_kept_code(place: KeptCode, model: Model, said: dict[str, str], path: Path) -> None:
    """Take the code of an earlier model of the same settings, or compile it and keep it."""
    kept = path.with_name("kept")
    kept.mkdir()
    files = place.files_for(model, kept, said)
    if files is not None:
        _package(path, files)
        if _agrees(path, model):
            return
        log.warning("kept code gives other numbers than the model: it is compiled anew")
        place.forget()
    programs = trace_all(model, "cpu")
    with place.workshop() as folder:
        files = _compiled(programs, folder, said)
        _package(path, files)
        place.keep(model, files, programs)


def _options() -> dict[str, Any]:
    """Settings of the compiler that the code depends on."""
    options: dict[str, Any] = {"aot_inductor.package": True, "cpp.dynamic_threads": True, **OPTIONS}
    if platform.machine() in ("x86_64", "amd64"):
        # portable within x86-64-v3 machines; the operators themselves are built for the machine that runs them
        options |= {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    return options


def _compiled(
    programs: Mapping[str, torch.export.ExportedProgram], folder: Path, said: dict[str, str]
) -> dict[str, list[str]]:
    """Files of each graph, as a package takes them."""
    found = {}
    for name, program in programs.items():
        assert program.example_inputs is not None
        args, kwargs = program.example_inputs
        options = _options() | {"aot_inductor.metadata": dict(said), "aot_inductor.output_path": str(folder / name)}
        files: Any = torch._inductor.aot_compile(program.module(check_guards=False), args, kwargs, options=options)
        found[name] = list(files)
    return found


def _package(path: Path, files: dict[str, list[str]]) -> None:
    from torch._inductor.package.package import package_aoti

    inputs: Any = files
    package_aoti(str(path), inputs)


def _agrees(path: Path, model: Model) -> bool:
    """Whether a package gives what the model gives, for the neighbourhood of two structures."""
    tolerance = AGREEMENT[model.precision]
    for name, (module, inputs) in graphs_of(model, structures(model, COMPARED, seed=0).tensors()).items():
        try:
            found = torch._C._aoti.AOTIModelPackageLoader(str(path), name, False, 1, -1).boxed_run(list(inputs))
        except RuntimeError:
            return False
        for a, b in zip(found, module(*inputs), strict=True):
            if b.numel() and not (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-300):
                return False
    return True
