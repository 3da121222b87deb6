"""Products between the edges of a centre: Gram matrices, and their products with rows of edges.

The form ``F(p, q, k) = Σ_a p[a, h] q[ij(a), h, :] · k[ik(a), h, :]`` is linear in each argument, and the two operators
are its partial gradients, so each one's derivatives are the two again, to any order. Nothing of the size (A, H, d)
exists: the pairs of a centre are a dense matrix, which is multiplied as such.

E edges of N centres with row pointers ``edge_ptr (N+1)``. Pairs are all ordered pairs of edges of one centre, an edge
with itself included: those of edge j are ``pair_ptr[j]`` to ``pair_ptr[j+1] - 1``, in the order of the other edge.
A pairs, H heads, d columns.
"""

from __future__ import annotations

from torch import Tensor

from dpsim.ops import reference


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
    return reference.pair_dot(q, k, edge_ptr, pair_ptr, like_pairs.shape[0])


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
    return reference.pair_mix(p, v, edge_ptr, pair_ptr, transpose)
