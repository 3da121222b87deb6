"""Plain PyTorch versions of the operators: what the native ones are tested against, and the way on other devices.

M items lie in S segments given by row pointers ``ptr (S+1)``: segment t holds the items ``ptr[t]`` to
``ptr[t+1] - 1``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SILU, SILUT, TANH = 0, 1, 2


def segment_ids(ptr: Tensor, items: int) -> Tensor:
    """Segment of each item, ``(M,)`` int64."""
    # No size here is one less than another: the exporter would take it to be neither 0 nor 1.
    return torch.searchsorted(ptr, torch.arange(items, device=ptr.device), right=True) - 1


def scatter_rows(g: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum of the rows of `g` that have the same index."""
    return g.new_zeros((rows, *g.shape[1:])).index_add(0, index, g)


def segment_sum(x: Tensor, ptr: Tensor, segments: int) -> Tensor:
    """Sum of the rows of each segment."""
    return scatter_rows(x, segment_ids(ptr, x.shape[0]), segments)


def segment_expand(y: Tensor, ptr: Tensor, items: int) -> Tensor:
    """To each item the row of its segment."""
    return y.index_select(0, segment_ids(ptr, items))


def segment_max(x: Tensor, ptr: Tensor, segments: int) -> Tensor:
    """Largest number in each column of a segment, 0 where it has no rows; not differentiated."""
    x = x.detach()
    index = segment_ids(ptr, x.shape[0]).view(-1, *[1] * (x.dim() - 1)).expand_as(x)
    return x.new_zeros((segments, *x.shape[1:])).scatter_reduce(0, index, x, "amax", include_self=False)


def edge_outer_sum(h: Tensor, g: Tensor, ptr: Tensor, centers: int) -> Tensor:
    """Sum over the edges of each centre of ``h ⊗ g``."""
    return segment_sum(h[:, :, None] * g[:, None, :], ptr, centers)


def edge_outer_dot(t: Tensor, g: Tensor, ptr: Tensor) -> Tensor:
    """Rows of ``t`` of each edge's centre times ``g``, summed over columns."""
    return (segment_expand(t, ptr, g.shape[0]) * g[:, None, :]).sum(-1)


def edge_outer_mix(t: Tensor, h: Tensor, ptr: Tensor) -> Tensor:
    """Rows of ``t`` of each edge's centre times ``h``, summed over rows."""
    return (segment_expand(t, ptr, h.shape[0]) * h[:, :, None]).sum(1)


def environment(
    d: Tensor,
    mean: Tensor,
    scale: Tensor,
    types: Tensor,
    ptr: Tensor,
    switch: Callable[[Tensor, float, float], Tensor],
    form: int,
    start: float,
    end: float,
    protection: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled rows of the environment of each edge, its switch, and its distance."""
    r = torch.linalg.vector_norm(d, dim=1)
    sw = switch(r, start, end)
    by_type = torch.cat([mean, scale], dim=1).index_select(0, types)
    by_edge = segment_expand(by_type, ptr, d.shape[0])
    n, protected = mean.shape[1], r + protection
    radial = (sw / protected - by_edge[:, 0]) * by_edge[:, n]
    if n == 1:
        return radial.unsqueeze(1), sw, r
    vector = ((sw / (protected * protected)).unsqueeze(1) * d - by_edge[:, 1:4]) * by_edge[:, n + 1 :]
    return torch.cat([radial.unsqueeze(1), vector], dim=1), sw, r


def edge_convolution(h: Tensor, g: Tensor, weight: Tensor, ptr: Tensor, centers: int) -> tuple[Tensor, Tensor]:
    """Sum over the edges of each centre of ``h ⊗ g``: first rows, and a weighted sum of the others."""
    moments = edge_outer_sum(h, g, ptr, centers)
    kept = h.shape[1] - weight.shape[0]
    return moments[:, :kept], (moments[:, kept:] * weight).sum(1)


def edge_convolution_double_backward(
    cotangents: Sequence[Tensor | None],
    t_moments: Tensor,
    t_sums: Tensor,
    h: Tensor,
    g: Tensor,
    weight: Tensor,
    ptr: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients, by its cotangents and its arguments but `ptr`, of the gradients of `edge_convolution`.

    Parameters
    ----------
    cotangents
        Of the gradients with respect to h, g and weight; None or an empty tensor where there is none.
    """

    def value(h: Tensor, g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return edge_convolution(h, g, weight, ptr, t_sums.shape[0])

    return _second(value, cotangents, (t_moments, t_sums), (h, g, weight))


def embedding_sum(
    x: Tensor,
    r: Tensor,
    kind: Tensor | None,
    first: Tensor,
    weights: Tensor,
    ptr: Tensor,
    segments: int,
    widths: Sequence[int],
    skip: bool,
    activation: int,
    threshold: float = 0.0,
) -> Tensor:
    """Sum over the items of each segment of ``r ⊗ G``, G a residual network of ``x`` and a kind."""
    before = first if kind is None else first.index_select(0, kind)
    value = activate(x.unsqueeze(1) * weights[: widths[0]] + before, activation, threshold)
    value = value + x.unsqueeze(1) if skip else value
    at = widths[0]
    for width, out in itertools.pairwise(widths):
        weight, bias = weights[at : at + width * out].view(width, out), weights[at + width * out :][:out]
        at += (width + 1) * out
        after = activate(value @ weight + bias, activation, threshold)
        value = after + torch.cat([value] * (out // width), dim=1) if out in (width, 2 * width) else after
    return edge_outer_sum(r, value, ptr, segments)


def embedding_sum_double_backward(
    cotangents: Sequence[Tensor | None],
    t: Tensor,
    x: Tensor,
    r: Tensor,
    kind: Tensor | None,
    first: Tensor,
    weights: Tensor,
    ptr: Tensor,
    *network: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of the gradients of ``<t, embedding_sum>``, in the order of its arguments from `t` to `weights`.

    Parameters
    ----------
    cotangents
        Of the gradients with respect to x, r, first and weights; None or an empty tensor where there is none.
    """

    def value(x: Tensor, r: Tensor, first: Tensor, weights: Tensor) -> tuple[Tensor]:
        return (embedding_sum(x, r, kind, first, weights, ptr, t.shape[0], *network),)

    found = _second(value, cotangents, (t,), (x, r, first, weights))
    return (*found[:3], None, *found[3:])


def _second(
    value: Callable[..., tuple[Tensor, ...]],
    cotangents: Sequence[Tensor | None],
    outer: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Gradients by `outer` and `inputs` of the gradients of ``<outer, value(*inputs)>`` times `cotangents`."""
    with torch.enable_grad():
        outer, inputs = (tuple(one.detach().requires_grad_() for one in group) for group in (outer, inputs))
        gradients = torch.autograd.grad(value(*inputs), inputs, outer, create_graph=True)
        given = [(g, u) for g, u in zip(gradients, cotangents, strict=True) if u is not None and u.shape == g.shape]
        return torch.autograd.grad(
            [g for g, _ in given], (*outer, *inputs), [u for _, u in given], allow_unused=True, materialize_grads=True
        )


def pair_edges(edge_ptr: Tensor, pair_ptr: Tensor, edges: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Both edges of each pair, ``(A,)`` int64 each."""
    ij = segment_ids(pair_ptr, pairs)
    first = edge_ptr.index_select(0, segment_ids(edge_ptr, edges).index_select(0, ij))
    return ij, first + torch.arange(pairs, device=ij.device) - pair_ptr.index_select(0, ij)


def pair_dot(q: Tensor, k: Tensor, edge_ptr: Tensor, pair_ptr: Tensor, pairs: int) -> Tensor:
    """Products of the rows of the two edges of each pair, summed over columns."""
    if _symbolic(pairs):
        ij, ik = pair_edges(edge_ptr, pair_ptr, q.shape[0], pairs)
        return (q.index_select(0, ij) * k.index_select(0, ik)).sum(-1)
    blocks = _blocks(edge_ptr, pair_ptr, q.shape[1])
    return torch.cat([b.rows_of_pairs(b.pad_edges(q) @ b.pad_edges(k).mT) for b in blocks])


def pair_mix(p: Tensor, v: Tensor, edge_ptr: Tensor, pair_ptr: Tensor, transpose: bool = False) -> Tensor:
    """Sum over the pairs of each edge of the number of the pair times the row of its other edge."""
    if _symbolic(p.shape[0]):
        to, other = pair_edges(edge_ptr, pair_ptr, v.shape[0], p.shape[0])
        to, other = (other, to) if transpose else (to, other)
        return scatter_rows(p[:, :, None] * v.index_select(0, other), to, v.shape[0])
    blocks = _blocks(edge_ptr, pair_ptr, v.shape[1])
    matrices = ((b, b.pad_pairs(p)) for b in blocks)
    return torch.cat([b.rows_of_edges((m.mT if transpose else m) @ b.pad_edges(v)) for b, m in matrices])


def _symbolic(size: int) -> bool:
    """Whether a graph is being traced: the widths of blocks are unknown then, and products fuse with their sums."""
    return isinstance(size, torch.SymInt) or torch.compiler.is_compiling()


_BLOCK_NUMBERS = 1 << 24
"""How many numbers a padded matrix of pairs may have."""


class _Block(NamedTuple):
    """Successive centres whose pairs are matrices padded to the same width."""

    centers: int
    width: int
    edges: slice
    pairs: slice
    edge_at: Tensor
    """Positions of the edges in (centers, width)."""
    pair_at: Tensor
    """Positions of the pairs in (centers, width, width)."""

    def pad_edges(self, x: Tensor) -> Tensor:
        """Rows ``(E, H, d)`` of edges as matrices ``(centers, H, width, d)``."""
        padded = x.new_zeros((self.centers * self.width, *x.shape[1:])).index_copy(0, self.edge_at, x[self.edges])
        return padded.view(self.centers, self.width, *x.shape[1:]).transpose(1, 2)

    def pad_pairs(self, p: Tensor) -> Tensor:
        """Numbers ``(A, H)`` of pairs as matrices ``(centers, H, width, width)``."""
        n, w, heads = self.centers, self.width, p.shape[1]
        padded = p.new_zeros((n * w * w, heads)).index_copy(0, self.pair_at, p[self.pairs])
        return padded.view(n, w, w, heads).permute(0, 3, 1, 2)

    def rows_of_edges(self, matrices: Tensor) -> Tensor:
        """Inverse of `pad_edges`."""
        return matrices.transpose(1, 2).flatten(0, 1).index_select(0, self.edge_at)

    def rows_of_pairs(self, matrices: Tensor) -> Tensor:
        """Inverse of `pad_pairs`."""
        return matrices.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, self.pair_at)


def _blocks(edge_ptr: Tensor, pair_ptr: Tensor, heads: int) -> Iterator[_Block]:
    pointers = edge_ptr.tolist()
    counts = [after - before for before, after in itertools.pairwise(pointers)]
    first_pair = 0
    for start, stop in _groups(counts, heads):
        edges = slice(pointers[start], pointers[stop])
        pairs = slice(first_pair, first_pair + sum(n * n for n in counts[start:stop]))
        first_pair, width = pairs.stop, max(counts[start:stop], default=0)
        edge = torch.arange(edges.start, edges.stop, device=edge_ptr.device)
        center = torch.searchsorted(edge_ptr, edge, right=True) - 1
        edge_at = (center - start) * width + edge - edge_ptr.index_select(0, center)
        pair = torch.arange(pairs.start, pairs.stop, device=edge_ptr.device)
        row = torch.searchsorted(pair_ptr, pair, right=True) - 1
        pair_at = edge_at.index_select(0, row - edges.start) * width + pair - pair_ptr.index_select(0, row)
        yield _Block(stop - start, width, edges, pairs, edge_at, pair_at)


def _groups(counts: list[int], heads: int) -> Iterator[tuple[int, int]]:
    """Ranges of successive centres whose padded matrices fit in `_BLOCK_NUMBERS`; at least one range."""
    start, width = 0, 0
    for center, count in enumerate(counts):
        width = max(width, count)
        if center > start and (center + 1 - start) * width * width * heads > _BLOCK_NUMBERS:
            yield start, center
            start, width = center, count
    yield start, len(counts)


def typed_matmul(x: Tensor, weights: Sequence[Tensor], types: Tensor, transpose: bool) -> Tensor:
    """Products of rows with the matrix of their type."""
    total: Tensor | None = None
    for index, weight in enumerate(weights):
        product = x @ (weight.mT if transpose else weight)
        total = torch.where((types == index).unsqueeze(1), product, 0.0 if total is None else total)
    assert total is not None
    return total


def typed_outer(x: Tensor, g: Tensor, types: Tensor, n_types: int) -> Tensor:
    """Sum over the rows of each type of ``x ⊗ g``."""
    return torch.stack([torch.where((types == index).unsqueeze(1), x, 0.0).mT @ g for index in range(n_types)])


def tabulate(x: Tensor, table: Tensor, grid: Tensor) -> Tensor:
    """Quintics of the interval that each number lies in, and straight lines outside the table."""
    start, lower, upper, end, below, inside, above = grid.unbind()
    at = torch.maximum(torch.minimum(x.detach().to(grid.dtype), end), start)
    is_below, is_above = at < lower, (at >= upper) & (above > 0)
    bounds = torch.stack([start, lower, upper, end])
    counts = torch.stack([below, inside, above])
    part = 1 + is_above.to(torch.int64) - is_below.to(torch.int64)
    count, origin = counts.index_select(0, part), bounds.index_select(0, part)
    width = (bounds.index_select(0, part + 1) - origin) / count
    number = torch.minimum(((at - origin) / width).floor(), count - 1)
    first = torch.cumsum(counts, 0) - counts
    rows = table.index_select(0, (first.index_select(0, part) + number).to(torch.int64))
    u = ((at - (origin + number * width)).to(x.dtype)).unsqueeze(1)
    beyond = at.to(x.dtype) != x.detach()
    u = u + torch.where(beyond, 0.0, x - x.detach()).unsqueeze(1)  # the derivative is that of the polynomial
    value, slope = rows[:, 5], 5.0 * rows[:, 5]
    for k in range(4, -1, -1):
        value = value * u + rows[:, k]
        if k:
            slope = slope * u + k * rows[:, k]
    return value + torch.where(beyond, x - at.to(x.dtype), 0.0).unsqueeze(1) * slope


def activate(x: Tensor, activation: int, threshold: float = 0.0) -> Tensor:
    """Activation function by its code: 0 silu, 1 silut (silu below `threshold`, tanh above), 2 tanh."""
    if activation == TANH:
        return torch.tanh(x)
    if activation == SILU:
        return torch.nn.functional.silu(x)
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    slope = sigmoid + threshold * sigmoid * (1.0 - sigmoid)
    above = torch.tanh(slope * (x - threshold)) + threshold * sigmoid
    return torch.where(x < threshold, torch.nn.functional.silu(x), above)


def gather_act_reduce(
    x: Tensor,
    s: Tensor,
    b: Tensor,
    w: Tensor,
    ptr: Tensor,
    b_index: Tensor,
    c1: int,
    activation: int,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Activate ``x + s[segment] + b[b_index]``; sum the first `c1` columns by segment, return the others."""
    pre = x + segment_expand(s, ptr, x.shape[0]) + b.index_select(0, b_index)
    value = activate(pre, activation, threshold)
    return segment_sum(w[:, None] * value[:, :c1], ptr, s.shape[0]), value[:, c1:]
