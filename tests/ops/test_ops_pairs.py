"""Products between the edges of a centre: values, closure under differentiation, traced and compiled graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from operator_cases import pointers
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim import ops
from dpsim.nn.softmax import segment_softmax
from dpsim.ops import reference

COUNTS = [3, 0, 1, 5]


def pair_pointers(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Pointers of edges and of their pairs for centres with so many edges."""
    edges = torch.as_tensor(counts, dtype=torch.int64)
    return pointers(edges), pointers(edges.repeat_interleave(edges))


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype).requires_grad_()


def by_definition(counts: list[int]) -> tuple[Tensor, Tensor]:
    """The two edges of every pair, centre by centre."""
    ranges = [range(sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(counts))]
    pairs = [(j, k) for edges in ranges for j in edges for k in edges]
    ij, ik = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return ij, ik


def leaves(name: str, counts: list[int], heads: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    edges, pairs = sum(counts), sum(n * n for n in counts)
    second = random(edges, heads, columns, dtype=dtype, seed=1)
    if name == "dot":
        return random(edges, heads, columns, dtype=dtype), second
    return random(pairs, heads, dtype=dtype), second


def operator(name: str, counts: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """``dot``, ``mix`` or ``transpose`` with the pointers of `counts`."""
    edge_ptr, pair_ptr = pair_pointers(counts)
    if name == "dot":
        like = torch.empty(int(pair_ptr[-1]))
        return lambda q, k: ops.pair_dot(q, k, edge_ptr, pair_ptr, like)
    return lambda p, v: ops.pair_mix(p, v, edge_ptr, pair_ptr, transpose=name == "transpose")


def definition(name: str, counts: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same by gathering the rows of both edges of every pair."""
    ij, ik = by_definition(counts)
    if name == "dot":
        return lambda q, k: (q[ij] * k[ik]).sum(-1)
    to, other = (ik, ij) if name == "transpose" else (ij, ik)
    return lambda p, v: torch.zeros_like(v).index_add(0, to, p[:, :, None] * v[other])


def plain(name: str, counts: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The version for other devices."""
    edge_ptr, pair_ptr = pair_pointers(counts)
    if name == "dot":
        return lambda q, k: reference.pair_dot(q, k, edge_ptr, pair_ptr, int(pair_ptr[-1]))
    return lambda p, v: reference.pair_mix(p, v, edge_ptr, pair_ptr, name == "transpose")


NAMES = ["dot", "mix", "transpose"]
# Below, at and beyond the width of a vector, in edges and in columns.
SIZES = [
    (COUNTS, 1, 3),
    (COUNTS, 2, 1),
    ([7, 16, 0, 37], 1, 3),
    ([7, 16, 0, 37], 3, 5),
    ([33, 18], 1, 32),
    ([21, 2], 2, 45),
]
TOLERANCE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 3e-5}}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_derivatives(name: str, size: tuple[list[int], int, int], dtype: torch.dtype) -> None:
    counts, heads, columns = size
    given = leaves(name, counts, heads, columns, dtype)
    expected = definition(name, counts)(*given)
    cotangent = torch.randn_like(expected)
    slopes = torch.autograd.grad(expected, given, cotangent)
    for version in (operator, plain):
        got = version(name, counts)(*given)
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, **TOLERANCE[dtype])
        for a, b in zip(torch.autograd.grad(got, given, cotangent), slopes, strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_to_second_order(name: str) -> None:
    given = leaves(name, COUNTS, 2, 3, torch.float64)
    assert torch.autograd.gradcheck(operator(name, COUNTS), given)
    assert torch.autograd.gradgradcheck(operator(name, COUNTS), given)


@pytest.mark.parametrize("name", NAMES)
def test_plain_version_in_several_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [3, 0, 1, 5, 2, 2, 0, 4]
    given = leaves(name, counts, 2, 3, torch.float64)
    monkeypatch.setattr(reference, "_BLOCK_NUMBERS", 40)
    assert len(list(reference._groups(counts, 2))) > 3
    torch.testing.assert_close(plain(name, counts)(*given), definition(name, counts)(*given))
    assert torch.autograd.gradgradcheck(plain(name, counts), given)


@pytest.mark.parametrize("counts", [[], [0], [0, 0], [1], [1, 0, 1]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_edges_and_single_edges(name: str, counts: list[int]) -> None:
    for columns in (0, 1, 3, 40):
        given = leaves(name, counts, 2, columns, torch.float64)
        expected = definition(name, counts)(*given)
        for version in (operator, plain):
            got = version(name, counts)(*given)
            torch.testing.assert_close(got, expected)
            assert [g.shape for g in torch.autograd.grad(got.sum(), given)] == [g.shape for g in given]


@pytest.mark.parametrize("name", NAMES)
def test_inputs_need_not_be_contiguous(name: str) -> None:
    first, second = (t.detach() for t in leaves(name, [7, 16], 2, 5, torch.float64))
    turned = [t.mT.contiguous().mT for t in (first, second)]
    assert not any(t.is_contiguous() for t in turned)
    assert operator(name, [7, 16])(*turned).equal(operator(name, [7, 16])(first, second))


def test_infinite_numbers_stay_in_their_pair() -> None:
    """What lies behind the last column of a padded row must not spread."""
    q = torch.ones(5, 1, 3)
    q[2] = torch.inf
    got = operator("dot", [2, 3])(q, torch.ones(5, 1, 3))
    assert got.isfinite().sum() == 4 + 6
    p = torch.ones(13, 1)
    p[4] = torch.inf  # of edge 2 with itself
    for columns in (3, 40):
        assert operator("mix", [2, 3])(p, torch.ones(5, 1, columns)).isinf().all(-1).squeeze(1).tolist() == [
            *(False, False),
            *(True, False, False),
        ]


@pytest.mark.parametrize("name", NAMES)
def test_one_and_two_threads_agree_bitwise(name: str, threads: Callable[[int], None]) -> None:
    counts = [(7 * i) % 41 for i in range(150)]
    given = [t.detach() for t in leaves(name, counts, 2, 24, torch.float32)]
    results = []
    for count in (1, 2):
        threads(count)
        results.append(operator(name, counts)(*given))
    assert results[0].equal(results[1])


EDGE_PTR, PAIR_PTR = pair_pointers(COUNTS)
Q, P = torch.zeros(9, 2, 3), torch.zeros(35, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.pair_dot(Q, Q[:, :, :2], EDGE_PTR, PAIR_PTR, P), r"pair_dot: k is Float\[9, 2, 2\], expected Fl"),
        (lambda: ops.pair_dot(Q, Q.double(), EDGE_PTR, PAIR_PTR, P), "k is Double.*expected Float"),
        (lambda: ops.pair_dot(Q[:, 0], Q, EDGE_PTR, PAIR_PTR, P), r"q is \[9, 3\], expected \(edges, heads, columns\)"),
        (lambda: ops.pair_dot(Q, Q, EDGE_PTR, PAIR_PTR, P[:3]), r"ascend from 0 to the number of items \(3\)"),
        (lambda: ops.pair_dot(Q, Q, EDGE_PTR[:-1], PAIR_PTR, P), r"ascend from 0 to the number of items \(9\)"),
        (lambda: ops.pair_dot(Q, Q, EDGE_PTR[:0], PAIR_PTR, P), "edge_ptr is empty"),
        (
            lambda: ops.pair_dot(Q, Q, EDGE_PTR, pointers([4, 2, 3, 1, 5, 5, 5, 5, 5]), P),
            "pair_ptr gives edge 0 4 pairs, expected one with each of the 3 edges of its centre",
        ),
        (lambda: ops.pair_mix(P[:, :1], Q, EDGE_PTR, PAIR_PTR), r"p is Float\[35, 1\], expected Float\[35, 2\]"),
        (lambda: ops.pair_mix(P, Q[:8], EDGE_PTR, PAIR_PTR), r"ascend from 0 to the number of items \(8\)"),
        (lambda: ops.pair_mix(P, Q[:, 0], EDGE_PTR, PAIR_PTR), r"expected \(pairs, heads\) and \(edges, heads, colum"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


def test_operators_pass_torchs_own_checks() -> None:
    q, k, p = random(9, 2, 3), random(9, 2, 3, seed=1), random(35, 2)
    torch.library.opcheck(torch.ops.dpsim.pair_dot, (q, k, EDGE_PTR, PAIR_PTR, 35))
    torch.library.opcheck(torch.ops.dpsim.pair_mix, (p, k, EDGE_PTR, PAIR_PTR, False))
    torch.library.opcheck(
        torch.ops.dpsim.pair_mix, (p.detach(), k.detach().mT.contiguous().mT, EDGE_PTR, PAIR_PTR, True)
    )


# ---- inside traced graphs ---------------------------------------------------------------------------

Inputs = tuple[Tensor, ...]
# torch's own modules use what torch has deprecated.
tracing = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def network(d: Tensor, types: Tensor, edge_ptr: Tensor, pair_ij: Tensor, pair_ptr: Tensor) -> Tensor:
    """Energy of each atom by attention among its edges, gated by the cosines between them."""
    maps = torch.linspace(-1, 1, 3 * 3 * 8, dtype=d.dtype).reshape(3, 3, 8)
    q, k, v = (torch.tanh(d @ m).unflatten(1, (2, 4)) for m in maps)
    gate = ops.pair_dot(d[:, None], d[:, None], edge_ptr, pair_ptr, pair_ij)
    logits = ops.pair_dot(q, k, edge_ptr, pair_ptr, pair_ij) * 0.5
    empty = 40.0 - ops.segment_sum(torch.ones_like(gate), pair_ptr, d)
    p = segment_softmax(logits, pair_ptr, d, empty) * gate
    mixed = ops.pair_mix(p, v, edge_ptr, pair_ptr) + ops.pair_mix(p, q, edge_ptr, pair_ptr, transpose=True)
    return ops.segment_sum(mixed.square().sum((1, 2)), edge_ptr, types)


def deployed(d: Tensor, *rest: Tensor) -> Inputs:
    """Atomic energies and their gradient by `d`, as numbers."""
    with torch.enable_grad():
        d = d.detach().requires_grad_()
        energy = network(d, *rest)
        (gradient,) = torch.autograd.grad(energy.sum(), d)
    return energy.detach(), gradient


def trained(scale: Tensor, d: Tensor, *rest: Tensor) -> Inputs:
    """The same with a parameter, which the gradient still depends on."""
    d = d.detach().requires_grad_()
    energy = network(d * scale, *rest)
    (gradient,) = torch.autograd.grad(energy.sum(), d, create_graph=True)
    return energy, gradient


def inputs(counts: list[int]) -> Inputs:
    edge_ptr, pair_ptr = pair_pointers(counts)
    d = random(sum(counts), 3).detach()
    return d, torch.zeros(len(counts), dtype=torch.int64), edge_ptr, by_definition(counts)[0], pair_ptr


def exported() -> torch.export.ExportedProgram:
    arguments = inputs([3, 0, 2, 4])
    graph = make_fx(deployed, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)
    dynamic = ({0: torch.export.Dim.DYNAMIC},) * len(arguments)
    return torch.export.export(graph, arguments, dynamic_shapes=dynamic, strict=False)


OTHERS = [[3, 0, 2, 4], [9, 30], [1], [0], []]


def assert_equal(got: Inputs, expected: Inputs) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


class TestTraced:
    """Traced, exported, compiled."""

    pytestmark = tracing

    def test_export_is_dynamic(self) -> None:
        program = exported()
        names = {str(node.target).split(".")[-2:][0] for node in program.graph.nodes if node.op == "call_function"}
        assert {"pair_dot", "pair_mix", "segment_max"} <= names
        assert not names & {"index_add", "index_put", "scatter_add", "scatter_reduce"}
        for counts in OTHERS:
            assert_equal(program.module()(*inputs(counts)), deployed(*inputs(counts)))

    def test_plain_versions_can_be_traced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As for a GPU."""
        with monkeypatch.context() as patch:
            for module in ("rows", "pairs"):
                patch.setattr(f"dpsim.ops.{module}.native", lambda tensor: False)
            program = exported()
        assert not any("dpsim" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
        for counts in OTHERS:
            assert_equal(program.module()(*inputs(counts)), deployed(*inputs(counts)))

    @pytest.mark.slow
    def test_aotinductor_package(self, tmp_path: Path) -> None:
        package = torch._inductor.aoti_compile_and_package(exported(), package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for counts in OTHERS:
            assert_equal(tuple(loaded(*inputs(counts))), deployed(*inputs(counts)))

    def test_training_step_through_the_traced_gradient(self) -> None:
        arguments = inputs([3, 0, 2, 4])
        scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

        def slope(outputs: Inputs) -> Tensor:
            energy, gradient = outputs
            return torch.autograd.grad((energy**2).sum() + (gradient**2).sum(), scale)[0]

        expected = slope(trained(scale, *arguments))
        graph = make_fx(trained, tracing_mode="symbolic", _allow_non_fake_inputs=True)(scale, *arguments)
        for node in list(graph.graph.nodes):  # make_fx detaches what exp and tanh save, which cuts second derivatives
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.recompile()
        torch.testing.assert_close(slope(graph(scale, *arguments)), expected, rtol=1e-12, atol=0)

        def loss(scale: Tensor) -> float:
            return sum(float(output.detach().square().sum()) for output in trained(scale, *arguments))

        step, center = 1e-5, scale.detach()
        numeric = (loss(center + step) - loss(center - step)) / (2 * step)
        assert float(expected) == pytest.approx(numeric, rel=1e-6)
