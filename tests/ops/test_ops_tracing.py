"""The operators inside traced, exported and compiled graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops

Inputs = tuple[Tensor, ...]
# torch's own modules use what torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]
SIZES = (5, 17, 61)  # atoms, edges, angles: pairwise different


def network(
    d: Tensor, types: Tensor, center_ptr: Tensor, neighbor: Tensor, angle_ptr: Tensor, ik: Tensor, plan: Tensor
) -> Tensor:
    """Energy of each atom from displacements `d`: a small network of the shape of DPA-3, with every operator."""
    edge = torch.tanh(d @ torch.linspace(-1, 1, 3 * 8, dtype=d.dtype).reshape(3, 8))
    node = ops.segment_sum(edge, center_ptr, types)
    rows = ops.halo_extend(node, node, plan)
    outer = ops.edge_outer_sum(d, edge + ops.gather_rows(rows, neighbor), center_ptr, types)
    node = node + (outer**2).sum(1)
    by_atom = ops.segment_expand(node, center_ptr, d)
    w = torch.exp(-ops.gather_rows((d**2).sum(1), ik))
    reduced, item = ops.gather_act_reduce(ops.gather_rows(edge, ik), by_atom, edge, w, angle_ptr, ik, 5, 1, 0.4)
    by_edge = reduced.sum(1) + ops.segment_sum(item.sum(1), angle_ptr, d)
    return ops.segment_sum(by_edge, center_ptr, types) + node.sum(1)


def deployed(d: Tensor, *rest: Tensor) -> Inputs:
    """Atomic energies and their gradient by `d`, as numbers: what an exported model returns."""
    with torch.enable_grad():
        d = d.detach().requires_grad_()
        energy = network(d, *rest)
        (gradient,) = torch.autograd.grad(energy.sum(), d)
    return energy.detach(), gradient


def trained(scale: Tensor, d: Tensor, *rest: Tensor) -> Inputs:
    """The same with one parameter, which the gradient still depends on."""
    d = d.detach().requires_grad_()
    energy = network(d * scale, *rest)
    (gradient,) = torch.autograd.grad(energy.sum(), d, create_graph=True)
    return energy, gradient


def inputs(atoms: int, edges: int, angles: int, seed: int = 0) -> Inputs:
    """Random arguments of `network`."""
    g = torch.Generator().manual_seed(seed)

    def ptr(segments: int, items: int) -> Tensor:
        cuts = torch.randint(0, items + 1, (max(segments - 1, 0),), generator=g).sort().values
        return torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.full((min(segments, 1),), items)])

    d = torch.randn(edges, 3, generator=g, dtype=torch.float64)
    neighbor = torch.randint(0, max(atoms, 1), (edges,), generator=g)
    ik = torch.randint(0, max(edges, 1), (angles,), generator=g)
    types = torch.zeros(atoms, dtype=torch.int64)
    return d, types, ptr(atoms, edges), neighbor, ptr(edges, angles), ik, torch.zeros(1, dtype=torch.int64)


def traced(arguments: Inputs) -> torch.fx.GraphModule:
    return make_fx(deployed, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)


def exported(arguments: Inputs) -> torch.export.ExportedProgram:
    dynamic = ({0: torch.export.Dim.DYNAMIC},) * (len(arguments) - 1) + (None,)
    return torch.export.export(traced(arguments), arguments, dynamic_shapes=dynamic, strict=False)


def without_detach(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Take out the detach nodes that make_fx puts behind outputs saved by exp and tanh; they cut second derivatives."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def assert_equal(got: Inputs, expected: Inputs) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_trace_holds_operators_and_their_derivatives() -> None:
    graph = traced(inputs(*SIZES))
    names = {str(node.target).removesuffix(".default") for node in graph.graph.nodes if node.op == "call_function"}
    assert {
        "dpsim.gather_act_reduce",
        "dpsim.gather_act_reduce_backward",
        "dpsim.edge_outer_dot",
        "dpsim.scatter_rows",
        "dpsim.segment_expand",
        "dpsim.halo_extend",
        "dpsim.halo_fold",
    } <= names
    assert not any("index_add" in name or "index_put" in name for name in names)
    assert_equal(graph(*inputs(3, 9, 20, seed=1)), deployed(*inputs(3, 9, 20, seed=1)))


def test_export_is_dynamic() -> None:
    """Sizes of 0 and 1 pass the guards that the exporter collected."""
    program = exported(inputs(*SIZES)).module()
    for sizes in (SIZES, (2, 40, 3), (1, 1, 1), (0, 0, 0)):
        assert_equal(program(*inputs(*sizes)), deployed(*inputs(*sizes)))


@pytest.mark.slow
def test_aotinductor_package(tmp_path: Path) -> None:
    package = torch._inductor.aoti_compile_and_package(
        exported(inputs(*SIZES)), package_path=str(tmp_path / "model.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    for sizes in (SIZES, (2, 40, 3), (0, 0, 0)):
        assert_equal(tuple(loaded(*inputs(*sizes))), deployed(*inputs(*sizes)))


@pytest.mark.slow
def test_compiled_training_step() -> None:
    """Gradient of a loss on energy and forces, through the traced and compiled first derivative."""
    arguments = inputs(*SIZES)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def slope(outputs: Inputs) -> Tensor:
        energy, gradient = outputs
        return torch.autograd.grad((energy**2).sum() + (gradient**2).sum(), scale)[0]

    expected = slope(trained(scale, *arguments))
    graph = make_fx(trained, tracing_mode="symbolic", _allow_non_fake_inputs=True)(scale, *arguments)
    graph = without_detach(graph)
    torch.testing.assert_close(slope(graph(scale, *arguments)), expected, rtol=1e-13, atol=0)
    compiled = torch.compile(graph, dynamic=True)
    torch.testing.assert_close(slope(compiled(scale, *arguments)), expected, rtol=1e-13, atol=0)
