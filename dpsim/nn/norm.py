"""Normalisation of rows: to mean zero and variance one, or to length one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpsim import ops

_SHORTEST = 1e-12


class LayerNorm(nn.Module):
    """``weight (x − μ) / √(σ² + eps) + bias`` over the columns, with the biased variance (spec common.md §8).

    Parameters
    ----------
    trainable
        Whether weight and bias are parameters; otherwise they stay as they are.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, *, eps: float = 1e-5, trainable: bool = True, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        for name, values in (("weight", torch.ones(width, dtype=dtype)), ("bias", torch.zeros(width, dtype=dtype))):
            if trainable:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, width)`` to the same shape."""
        return layer_norm(x, self.weight, self.bias, self.eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Map ``(M, K)`` to ``weight (x − μ) / √(σ² + eps) + bias`` over the columns.

    torch's own function takes mean and variance for constants in its second derivative, so that the third is wrong;
    within `dpsim.ops.any_order` it is computed step by step.
    """
    if not ops.is_any_order():
        return functional.layer_norm(x, weight.shape, weight, bias, eps)
    centered = x - x.mean(-1, keepdim=True)
    return centered * ((centered * centered).mean(-1, keepdim=True) + eps).rsqrt() * weight + bias


def unit_rows(x: Tensor) -> Tensor:
    """Rows ``(M, K)`` divided by their length, or by 1e-12 if that is more; zero rows stay zero.

    Derivatives of any order are finite, of zero rows too.
    """
    return x * (x * x).sum(-1, keepdim=True).clamp(min=_SHORTEST**2).rsqrt()
