"""Products between the edges of a centre: Gram matrices, and their products with rows of edges.

The form ``F(p, q, k) = Σ_a p[a, h] q[ij(a), h, :] · k[ik(a), h, :]`` is linear in each argument, and the two operators
are its partial gradients, so each one's derivatives are the two again, to any order. Nothing of the size (A, H, d)
exists: the pairs of a centre are a dense matrix, which is multiplied as such.

E edges of N centres with row pointers ``edge_ptr (N+1)``. Pairs are all ordered pairs of edges of one centre, an edge
with itself included: those of edge j are ``pair_ptr[j]`` to ``pair_ptr[j+1] - 1``, in the order of the other edge.
A pairs, H heads, d columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import reference
from dpsim.ops.library import native


def pair_dot(q: Tensor, k: Tensor, edge_ptr: Tensor, pair_ptr: Tensor, like_pairs: Tensor) -> Tensor:
    """Gradient of F with respect to p: ``q[ij] · k[ik]`` of each pair and head.

    Parameters
    ----------
    q, k
        ``(E, H, d)``.
    edge_ptr, pair_ptr
        ``(N+1,)`` and ``(E+1,)`` int64.
    like_pairs
        Any tensor with A rows.

    Returns
    -------
    Tensor
        ``(A, H)``.
    """
    return _dot(q, k, edge_ptr, pair_ptr, like_pairs.shape[0])


def pair_mix(p: Tensor, v: Tensor, edge_ptr: Tensor, pair_ptr: Tensor, transpose: bool = False) -> Tensor:
    """Gradient of F with respect to q: ``Σ_k p[jk] v[k]`` of each edge j and head.

    Parameters
    ----------
    p
        ``(A, H)``.
    v
        ``(E, H, d)``.
    edge_ptr, pair_ptr
        ``(N+1,)`` and ``(E+1,)`` int64.
    transpose
        Sum over j and give to k instead: the gradient with respect to k.

    Returns
    -------
    Tensor
        ``(E, H, d)``.
    """
    if native(v):
        return torch.ops.dpsim.pair_mix(p, v, edge_ptr, pair_ptr, transpose)
    return reference.pair_mix(p, v, edge_ptr, pair_ptr, transpose)


def _dot(q: Tensor, k: Tensor, edge_ptr: Tensor, pair_ptr: Tensor, pairs: int) -> Tensor:
    if native(q):
        return torch.ops.dpsim.pair_dot(q, k, edge_ptr, pair_ptr, pairs)
    return reference.pair_dot(q, k, edge_ptr, pair_ptr, pairs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _save_mix(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.transpose = inputs[4]


def _dot_backward(ctx: Any, p: Tensor) -> tuple[Tensor | None, ...]:
    q, k, edge_ptr, pair_ptr = ctx.saved_tensors
    need_q, need_k, *_ = ctx.needs_input_grad
    dq = pair_mix(p, k, edge_ptr, pair_ptr) if need_q else None
    dk = pair_mix(p, q, edge_ptr, pair_ptr, transpose=True) if need_k else None
    return dq, dk, None, None, None


def _mix_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    p, v, edge_ptr, pair_ptr = ctx.saved_tensors
    need_p, need_v, *_ = ctx.needs_input_grad
    q, k = (v, g) if ctx.transpose else (g, v)
    dp = _dot(q, k, edge_ptr, pair_ptr, p.shape[0]) if need_p else None
    dv = pair_mix(p, g, edge_ptr, pair_ptr, not ctx.transpose) if need_v else None
    return dp, dv, None, None, None


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("dpsim::pair_dot", lambda q, k, edge_ptr, pair_ptr, pairs: q.new_empty((pairs, q.shape[1])))
    fake("dpsim::pair_mix", lambda p, v, edge_ptr, pair_ptr, transpose: v.new_empty(v.shape))
    autograd("dpsim::pair_dot", _dot_backward, setup_context=_save)
    autograd("dpsim::pair_mix", _mix_backward, setup_context=_save_mix)
