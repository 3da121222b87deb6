"""`CompiledModel`: what a package predicts, differentiable by the parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dpsim import ops
from dpsim.model.base import Model
from dpsim.model.example import structures
from dpsim.physics.derivatives import Derivatives
from dpsim.physics.neighborhood import Neighborhood
from dpsim.train.compile.graph import METADATA, Layout, Unsupported, hood_tensors, predictions

CHECKED = ((23, 9), (2,), (1,))
"""Numbers of atoms of the frames of each neighbourhood that the two forms are compared on."""
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
"""Largest difference, relative to the largest entry of a tensor; what is compiled wrongly differs by far more."""
SMALLEST = 1e-6
"""Gradients that are smaller than this part of the largest one are rounding errors, and compared with it."""


Graph = Callable[[list[Tensor]], Sequence[Tensor]]
"""Gives results and empties the list of its inputs, which are freed when they have been used."""


class CompiledModel:
    """The compiled step of one model; its parameters and buffers are read anew in each call.

    Parameters
    ----------
    forward, backward, layout
        The two graphs, ready to run, and what they take and give.
    derivatives
        Whether they were made with forces and virial.
    """

    def __init__(self, model: Model, forward: Graph, backward: Graph, layout: Layout, derivatives: bool) -> None:
        self.forward, self.backward, self.layout, self.differentiates = forward, backward, layout, derivatives
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())

    @classmethod
    def load(cls, model: Model, package: Path, derivatives: bool) -> Self:
        """From a file of `dpsim.train.compile.package`.

        Raises
        ------
        Unsupported
            If it cannot be loaded.
        """
        ops.load()
        # What torch._inductor.aoti_load_package is around, without the import of the compiler, which takes 80 MB.
        load, index = torch._C._aoti.AOTIModelPackageLoader, model.device.index
        place = (False, 1, -1 if index is None else index)  # shared by threads, one copy, the device
        try:
            forward, backward = (load(str(package), name, *place) for name in ("forward", "backward"))
        except RuntimeError as error:
            raise Unsupported(f"{package} cannot be loaded, delete it ({str(error).splitlines()[0]})") from None
        layout = Layout.model_validate_json(forward.get_metadata()[METADATA])
        return cls(model, forward.boxed_run, backward.boxed_run, layout, derivatives)

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of a model has parameters of its own, and computes with them as they are."""

    def derivatives(self, neighborhood: Neighborhood, n_frames: int) -> Derivatives:
        """As `dpsim.physics.derivatives.energy_and_derivatives` with its graph, without the edge gradient."""
        energy, forces, virial, atomic = self(neighborhood, n_frames)
        return Derivatives(energy, forces, virial, atomic, edge_gradient=atomic.new_zeros((0, 3)))

    def values(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic outputs ``(N, ...)``."""
        return self(neighborhood, 1)[0]

    def __call__(self, neighborhood: Neighborhood, n_frames: int) -> tuple[Tensor, ...]:
        """The predictions, in the order of `dpsim.train.compile.graph.predictions`."""
        found: tuple[Tensor, ...] = _Step.apply(  # type: ignore[no-untyped-call]
            self, hood_tensors(neighborhood, n_frames), *self.parameters
        )
        return found


class _Step(torch.autograd.Function):
    """Runs the two graphs. What is kept between them is handed over, so that it is freed as it is used."""

    @staticmethod
    def forward(ctx: Any, step: CompiledModel, tensors: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().contiguous() for tensor in (*parameters, *step.buffers, *tensors)]
        layout, number = step.layout, step.layout.outputs
        with torch.autocast(inputs[-1].device.type, enabled=False):
            results = list(step.forward(list(inputs)))
        kept = results[number:]
        ctx.step, ctx.n_parameters = step, len(parameters)
        ctx.kept = [(inputs if origin == "input" else kept)[k] for origin, k in layout.backward]
        return tuple(results[:number])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("a compiled step can be differentiated once")
        inputs = [*ctx.kept, *(gradient.contiguous() for gradient in gradients)]
        ctx.kept = None
        found = ctx.step.backward(inputs)
        by_parameter: list[Tensor | None] = [None] * ctx.n_parameters
        for number, gradient in zip(ctx.step.layout.gradients, found, strict=True):
            by_parameter[number] = gradient
        return None, None, *by_parameter


def difference(compiled: CompiledModel, model: Model) -> float:
    """How far predictions and gradients of the compiled step are from those of the model; 1 is the tolerance."""
    worst = 0.0
    for number, sizes in enumerate(CHECKED):
        hood = structures(model, sizes, seed=number).to(model.device)
        tensors = hood_tensors(hood, len(sizes))
        with torch.enable_grad():
            plain = predictions(model, hood, tensors[-1], compiled.differentiates)
            ours = compiled(hood, len(sizes))
        worst = max(worst, _largest(ours, plain, 0.0, model.precision))
        of_ours, of_plain = (_gradients(found, compiled.parameters) for found in (ours, plain))
        floor = SMALLEST * max((float(g.abs().max()) for g in of_plain if g.numel()), default=0.0)
        worst = max(worst, _largest(of_ours, of_plain, floor, model.precision))
    return worst


def _gradients(found: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a combination of all predictions that treats no two numbers alike."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device) for v in found]
    total = torch.stack([(value * weight).sum() for value, weight in zip(found, weights, strict=True)]).sum()
    wanted = [p for p in parameters if p.requires_grad]
    return list(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))


def _largest(ours: Sequence[Tensor], plain: Sequence[Tensor], floor: float, precision: str) -> float:
    """Largest difference in tolerances; infinite where one of the two is not finite."""
    worst = 0.0
    for a, b in zip(ours, plain, strict=True):
        if not b.numel():
            continue
        scale = max(float(b.detach().abs().max()), floor, 1e-300)
        found = float((a.detach() - b.detach()).abs().max()) / scale
        worst = max(worst, found / TOLERANCE[precision] if found == found else float("inf"))
    return worst
