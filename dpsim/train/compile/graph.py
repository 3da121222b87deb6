"""What a model predicts, and the gradient by its parameters, as two graphs of plain operators.

Both differentiations, by the edge vectors and by the parameters, are traced at once, so that nothing is left of
autograd; a minimal cut then divides the graph into a part that runs before the loss is known and one that runs behind
it. Sizes stay symbolic: N atoms, E edges, F frames, and those of all lists.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx

from dpsim import ops
from dpsim.config import Config
from dpsim.model.base import Model
from dpsim.model.example import example_neighborhood
from dpsim.physics.neighborhood import Neighborhood
from dpsim.train.optimizers.arithmetic import bf16_products

aten = torch.ops.aten
METADATA = "dpsim"
"""Where a package keeps its `Layout`."""
MISCOMPILED = {"index_add", "index_put", "scatter_add"}
"""Inductor of torch 2.13 may compile these wrongly on the CPU: rows that are added by index lose contributions."""


class Unsupported(Exception):
    """The step of this model cannot be compiled; the text says why."""


class Layout(Config):
    """What the two graphs take and give, in this order.

    The forward graph takes all parameters, all buffers and `hood_tensors`, and gives `outputs` predictions and what is
    kept for the backward graph.
    """

    outputs: int
    backward: tuple[tuple[Literal["input", "kept"], int], ...]
    """What the backward graph takes before the gradients by the predictions: inputs of the forward graph, and what was
    kept, by their numbers."""
    gradients: tuple[int, ...]
    """Numbers of the parameters that the backward graph gives the gradients of."""


class Halves(NamedTuple):
    """The two graphs."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    layout: Layout


def hood_tensors(hood: Neighborhood, n_frames: int) -> list[Tensor]:
    """Tensors of a neighbourhood in a single process, and one with as many rows as there are frames."""
    tensors = hood.tensors()
    frames = torch.empty(n_frames, dtype=torch.float64, device=hood.displacements.device)
    return [*tensors[:2], *tensors[3:-1], frames]


def _hood(model: Model, tensors: Sequence[Tensor]) -> Neighborhood:
    """The neighbourhood of which these are the tensors, without the last."""
    plan = torch.zeros(1, dtype=torch.int64)
    return Neighborhood.from_tensors(model.neighbors, model.inputs, [*tensors[:2], tensors[1], *tensors[2:], plan])


def predictions(
    model: Callable[[Neighborhood], Tensor], hood: Neighborhood, frames: Tensor, derivatives: bool
) -> tuple[Tensor, ...]:
    """Energies of the frames, forces, virials and energies of the atoms; without `derivatives` atomic outputs alone.

    Differentiable by the parameters; `frames` has F rows.
    """
    if not derivatives:
        return (model(hood),)
    displacements = hood.displacements.detach().requires_grad_(True)
    atomic = model(hood._replace(displacements=displacements))
    (gradient,) = torch.autograd.grad(atomic.sum(), displacements, create_graph=True)
    forces = ops.segment_sum(gradient, hood.edge_ptr, hood.types)
    forces = forces - ops.scatter_rows(gradient, hood.neighbor, hood.types)
    of_edge = hood.frame.index_select(0, hood.center)
    outer = (gradient.unsqueeze(2) * hood.displacements.unsqueeze(1)).reshape(-1, 9)
    virial = -ops.scatter_rows(outer, of_edge, frames).reshape(-1, 3, 3)
    return ops.scatter_rows(atomic, hood.frame, frames), forces, virial, atomic


def trace_halves(model: Model, derivatives: bool, products: str) -> Halves:
    """Trace and divide the step of a model; parameters that need no gradient get none.

    Raises
    ------
    Unsupported
        If it cannot be, or not with all sizes.
    """
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    trace = _Trace(model, derivatives, products)
    joint = trace.joint()
    divided = min_cut_rematerialization_partition(joint, trace.fakes, num_fwd_outputs=trace.n_outputs)
    return trace.halves(*divided)


class _Trace:
    """One tracing: its inputs, first as tensors without values, then as the nodes of the graphs."""

    def __init__(self, model: Model, derivatives: bool, products: str) -> None:
        self.model, self.derivatives, self.products = model, derivatives, products
        self.device = model.device
        named, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        self.names = [*named, *buffers]
        self.trained = [number for number, p in enumerate(named.values()) if p.requires_grad]
        hood = example_neighborhood(model, remote=0).to(self.device)
        inputs = hood_tensors(hood, int(hood.frame.max()) + 1)
        self.n_model, self.n_inputs = len(self.names), len(self.names) + len(inputs)
        self._fake_inputs([*named.values(), *buffers.values()], inputs)
        self.gradients: tuple[int, ...] = ()

    def _fake_inputs(self, fixed: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Tensors without values; equal numbers of rows become one symbol."""
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

        self.sizes = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.sizes, allow_non_fake_inputs=True)
        fakes = [self.mode.from_tensor(tensor.detach(), static_shapes=True) for tensor in fixed]
        for tensor in inputs:
            rows = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (tensor.dim() - 1)]
            context: Any = StatelessSymbolicContext(dynamic_sizes=rows)
            fakes.append(self.mode.from_tensor(tensor, symbolic_context=context))
        n_atoms, n_frames = fakes[len(fixed) + 1].shape[0], fakes[-1].shape[0]
        shapes: list[tuple[Any, ...]] = [(n_atoms, *self.model.output_shape)]
        if self.derivatives:
            shapes = [(n_frames,), (n_atoms, 3), (n_frames, 3, 3), (n_atoms,)]
        with self.mode:
            tangents = [torch.empty(shape, dtype=torch.float64, device=self.device) for shape in shapes]
        self.n_outputs, self.fakes = len(shapes), [*fakes, *tangents]

    def _structure(self, inputs: Sequence[Tensor]) -> tuple[Neighborhood, Tensor]:
        return _hood(self.model, inputs[self.n_model : self.n_inputs - 1]), inputs[self.n_inputs - 1]

    def _bound(self, values: Sequence[Tensor]) -> Callable[[Neighborhood], Tensor]:
        """The model with other values of its parameters and buffers."""
        named = dict(zip(self.names, values, strict=True))
        return lambda hood: torch.func.functional_call(self.model, named, (hood,))

    def _function(self, *inputs: Tensor) -> list[Tensor]:
        """Predictions and gradients from all inputs and the gradients by the predictions."""
        values = list(inputs[: self.n_model])
        for number in self.trained:
            values[number] = values[number].detach().requires_grad_(True)
        with bf16_products(self.products, self.device.type):
            found = predictions(self._bound(values), *self._structure(inputs), self.derivatives)
        wanted = [values[number] for number in self.trained]
        gradients = torch.autograd.grad(found, wanted, inputs[self.n_inputs :], allow_unused=True)
        pairs = [(n, g) for n, g in zip(self.trained, gradients, strict=True) if g is not None]
        self.gradients = tuple(number for number, _ in pairs)
        return [*(value.detach() for value in found), *(gradient for _, gradient in pairs)]

    def joint(self) -> fx.GraphModule:
        """Everything in one graph, without changes in place."""
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

        with self.mode, torch.enable_grad():
            graph = make_fx(self._function)(*self.fakes)
        _simplify(graph, self.device.type)
        functional: Callable[..., Any] = torch.func.functionalize(graph.forward)
        with self.mode:
            graph = make_fx(lambda *a: functional(*a), decomposition_table=select_decomp_table())(*self.fakes)
        if self.device.type == "cpu":
            refuse_miscompiled(graph)
        if self.sizes.replacements:
            fixed = ", ".join(f"{symbol} = {value}" for symbol, value in self.sizes.replacements.items())
            raise Unsupported(f"a size of the example was taken for a constant ({fixed})")
        for number, node in enumerate(graph.graph.find_nodes(op="placeholder")):
            behind = number - self.n_inputs
            node.name = node.target = f"primals_{number}" if behind < 0 else f"tangents_{behind}"
        graph.recompile()
        return graph

    def halves(self, forward: fx.GraphModule, backward: fx.GraphModule) -> Halves:
        """The divided graph without sizes and inputs among what is kept."""
        (output,) = forward.graph.find_nodes(op="output")
        results = list(output.args[0])
        kept = [node for node in results[self.n_outputs :] if node.op != "placeholder" and not _is_size(node)]
        output.args = ((*results[: self.n_outputs], *kept),)
        forward.recompile()
        self._measure_sizes(backward)
        numbers = {node.name: number for number, node in enumerate(kept)}
        taken = backward.graph.find_nodes(op="placeholder")
        taken = taken[: len(taken) - self.n_outputs]
        places = [("kept", numbers[n.name]) if n.name in numbers else ("input", _number(n.name)) for n in taken]
        layout = Layout(outputs=self.n_outputs, backward=tuple(places), gradients=self.gradients)  # type: ignore[arg-type]
        return Halves(forward, backward, layout)

    def _measure_sizes(self, backward: fx.GraphModule) -> None:
        """Let the backward graph read sizes off the tensors of the neighbourhood."""
        graph = backward.graph
        sizes = [node for node in graph.find_nodes(op="placeholder") if _is_size(node)]
        reader = _Sizes(graph, dict(self._rows()))
        for node in sizes:
            node.replace_all_uses_with(reader.read(node.meta["val"].node.expr))
        for node in sizes:
            graph.erase_node(node)
        graph.lint()
        backward.recompile()

    def _rows(self) -> Iterator[tuple[Any, tuple[str, Tensor]]]:
        """Symbols, each with the name and the fake of an input that has as many rows; the first is preferred."""
        for number in reversed(range(self.n_model, self.n_inputs)):
            rows = self.fakes[number].shape[0]
            if isinstance(rows, torch.SymInt):
                yield rows.node.expr, (f"primals_{number}", self.fakes[number])


class _Sizes:
    """Puts expressions of sizes into a graph that has the tensors that they are sizes of."""

    def __init__(self, graph: fx.Graph, rows: dict[Any, tuple[str, Tensor]]) -> None:
        self.graph, self.rows = graph, rows
        self.inputs = {node.name: node for node in graph.find_nodes(op="placeholder")}
        self.first = next(iter(self.inputs.values()))
        self.start = next(node for node in graph.nodes if node.op != "placeholder")
        self.made: dict[Any, fx.Node | int] = {}

    def read(self, expression: Any) -> Any:
        """The number that a sympy expression stands for."""
        if expression not in self.made:
            self.made[expression] = self._make(expression)
        return self.made[expression]

    def _make(self, expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression in self.rows:
            return self._call(aten.sym_size.int, (self._tensor(*self.rows[expression]), 0))
        if not (expression.is_Add or expression.is_Mul):
            raise Unsupported(f"the size {expression} is no sum and no product of others")
        add = operator.add if expression.is_Add else operator.mul
        parts = [self.read(part) for part in expression.args]
        return functools.reduce(lambda a, b: self._call(add, (a, b)), parts)

    def _call(self, target: Callable[..., Any], arguments: tuple[Any, ...]) -> fx.Node:
        with self.graph.inserting_before(self.start):
            node = self.graph.call_function(target, arguments)
        node.meta["val"] = target(*(a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments))
        return node

    def _tensor(self, name: str, fake: Tensor) -> fx.Node:
        if name not in self.inputs:
            with self.graph.inserting_before(self.first):
                self.inputs[name] = self.graph.placeholder(name)
            self.inputs[name].meta["val"] = fake
        return self.inputs[name]


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], torch.SymInt)


def _number(name: str) -> int:
    return int(name.removeprefix("primals_"))


def _simplify(graph: fx.GraphModule, device: str) -> None:
    """Take out what does nothing in a single process and behind the last differentiation; add rows by dpsim's operator.

    On the CPU rows of tables of parameters are added up by `dpsim.ops.scatter_rows` instead of ``index_add``.
    """
    same = [aten.detach.default]
    if hasattr(torch.ops.dpsim, "halo_extend"):
        same += [torch.ops.dpsim.halo_extend.default, torch.ops.dpsim.halo_fold.default]
    for node in list(graph.graph.nodes):
        if node.target in same:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.index_add.default and device == "cpu":
            _add_rows(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _add_rows(graph: fx.Graph, node: fx.Node) -> None:
    onto, dim, index, rows = node.args
    if dim != 0 or node.kwargs:
        return
    with graph.inserting_before(node):
        size = graph.call_function(aten.sym_size.int, (onto, 0))
        added = graph.call_function(torch.ops.dpsim.scatter_rows.default, (rows, index, size))
        zeros = isinstance(onto, fx.Node) and onto.target in (aten.new_zeros.default, aten.zeros_like.default)
        node.replace_all_uses_with(added if zeros else graph.call_function(aten.add.Tensor, (onto, added)))
    graph.erase_node(node)


def refuse_miscompiled(graph: fx.GraphModule) -> None:
    """Refuse a graph for the CPU with operators that may be compiled wrongly.

    Raises
    ------
    Unsupported
        Naming them.
    """
    names = {str(node.target).removeprefix("aten.").split(".")[0].strip("_") for node in graph.graph.nodes}
    found = sorted(MISCOMPILED & {name.removeprefix("unsafe_") for name in names})
    if found:
        raise Unsupported(f"it holds aten.{', aten.'.join(found)}, which torch {torch.__version__} compiles wrongly")
