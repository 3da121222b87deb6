"""Switch functions that let edges fade out at the cut-off (spec common.md §4)."""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_switch(r: Tensor, rcut_smth: float, rcut: float) -> Tensor:
    """One below `rcut_smth`, zero at `rcut`, twice continuously differentiable.

    ``w = u³(−6u² + 15u − 10) + 1`` with ``u = clip((r − rcut_smth)/(rcut − rcut_smth), 0, 1)``.
    """
    u = ((r - rcut_smth) / (rcut - rcut_smth)).clamp(0.0, 1.0)
    return u * u * u * (-6.0 * u * u + 15.0 * u - 10.0) + 1.0


def exponential_switch(r: Tensor, rcut_smth: float, rcut: float) -> Tensor:
    """Double exponential ``exp(−exp((20/rcut_smth)(min(r, rcut) − rcut_smth)))``.

    It is 1/e at `rcut_smth` and not exactly zero at `rcut` (8e-7 for 5.3/6.0 Å).
    """
    return torch.exp(-torch.exp((20.0 / rcut_smth) * (r.clamp(max=rcut) - rcut_smth)))
