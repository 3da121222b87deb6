"""Exchange of feature rows between processes, as two operators that are each other's adjoint.

N owned atoms, R feature rows = owned + remote atoms. A plan is one int64 on the CPU: 0 for a single process
(then R = N and both copy), else a handle of an exchange that the LAMMPS plugin registered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpsim.ops import library


def halo_extend(h: Tensor, row_ref: Tensor, plan: Tensor) -> Tensor:
    """Rows of owned atoms, followed by those of remote atoms as their owners hold them.

    Parameters
    ----------
    h
        ``(N, ...)``.
    row_ref
        Any tensor with R rows.
    plan
        ``(1,)`` int64 on the CPU.

    Returns
    -------
    Tensor
        ``(R, ...)``.
    """
    if library.load():
        return torch.ops.dpsim.halo_extend(h, row_ref, plan)
    return h.clone()


def halo_fold(g: Tensor, owned_ref: Tensor, plan: Tensor) -> Tensor:
    """Adjoint of `halo_extend`: rows of remote atoms are added to their owners' rows.

    Parameters
    ----------
    g
        ``(R, ...)``.
    owned_ref
        Any tensor with N rows.
    plan
        ``(1,)`` int64 on the CPU.

    Returns
    -------
    Tensor
        ``(N, ...)``.
    """
    if library.load():
        return torch.ops.dpsim.halo_fold(g, owned_ref, plan)
    return g.clone()


def _like_rows(values: Tensor, reference: Tensor, plan: Tensor) -> Tensor:
    return values.new_empty((reference.shape[0], *values.shape[1:]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    values, _, plan = inputs
    # Only the number of rows is needed: a tensor without columns keeps no features alive.
    ctx.save_for_backward(values.new_empty((values.shape[0], 0)), plan)


def _extend_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    reference, plan = ctx.saved_tensors
    return halo_fold(grad, reference, plan), None, None


def _fold_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    reference, plan = ctx.saved_tensors
    return halo_extend(grad, reference, plan), None, None


def register() -> None:
    """Register fake kernels and derivatives with torch."""
    for name, backward in (("halo_extend", _extend_backward), ("halo_fold", _fold_backward)):
        torch.library.register_fake(f"dpsim::{name}", _like_rows)
        torch.library.register_autograd(f"dpsim::{name}", backward, setup_context=_save)
