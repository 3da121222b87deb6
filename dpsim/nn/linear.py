"""Linear maps and residual networks (spec common.md §8).

Maps act on row vectors: ``y = x @ weight + bias`` with ``weight (in, out)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.nn.activation import Activation, activation


def normal(*shape: int, mean: float = 0.0, std: float, dtype: torch.dtype) -> nn.Parameter:
    """Parameter drawn from a normal distribution; drawn in float64 so that dtypes share the numbers."""
    return nn.Parameter((torch.randn(*shape, dtype=torch.float64) * std + mean).to(dtype))


class Linear(nn.Module):
    """``x @ weight + bias``; weights N(0, 1/(in+out)), biases N(0, 1)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = normal(n_in, n_out, std=1 / math.sqrt(n_in + n_out), dtype=dtype)
        self.bias = normal(n_out, std=1.0, dtype=dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, in)`` to ``(M, out)``."""
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


class ResidualLayer(nn.Module):
    """``φ(x @ weight + bias) * idt``, plus ``x`` where widths are equal, ``[x|x]`` where they double."""

    def __init__(self, n_in: int, n_out: int, phi: Activation, *, resnet_dt: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = Linear(n_in, n_out, dtype=dtype)
        self.phi = phi
        self.copies = n_out // n_in if n_out in (n_in, 2 * n_in) else 0
        self.idt = normal(n_out, mean=0.1, std=0.001, dtype=dtype) if resnet_dt and self.copies else None

    @property
    def bias(self) -> Tensor:
        """(out,) of the map."""
        assert self.linear.bias is not None
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, in)`` to ``(M, out)``."""
        y = self.phi(self.linear(x))
        if self.idt is not None:
            y = y * self.idt
        if self.copies == 1:
            return y + x
        return y + torch.cat([x, x], dim=-1) if self.copies == 2 else y


class EmbeddingNetwork(nn.Module):
    """Residual layers of the given widths."""

    def __init__(
        self, n_in: int, neuron: Sequence[int], activation_name: str, *, resnet_dt: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        phi = activation(activation_name)
        self.layers = nn.ModuleList(
            ResidualLayer(a, b, phi, resnet_dt=resnet_dt, dtype=dtype) for a, b in itertools.pairwise([n_in, *neuron])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, n_in)`` to ``(M, neuron[-1])``."""
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def residual_layers(self) -> list[ResidualLayer]:
        """All layers."""
        return [layer for layer in self.layers if isinstance(layer, ResidualLayer)]

    @property
    def first(self) -> ResidualLayer:
        """First layer."""
        return self.residual_layers[0]

    def outer_sum(
        self,
        x: Tensor,
        rows: Tensor,
        ptr: Tensor,
        like: Tensor,
        kinds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Sum ``(S, K, neuron[-1])`` over the items of each segment of ``rows ⊗ network(x)``.

        Nothing as wide as the network is stored for all items where the fused operator knows its layers.

        Parameters
        ----------
        x
            ``(M,)`` the input, or the first column of it.
        rows
            ``(M, K)``, sorted by segment.
        ptr, like
            ``(S+1,)`` row pointers of the segments, and any tensor with S rows.
        kinds
            What the other columns of the input add before the first activation, its bias included, is the same for all
            items of a kind: the kind ``(M,)`` of each item, and the addition ``(n_kinds, neuron[0])`` of each kind. The
            first layer must have no residual part then.
        """
        first = self.first
        kind, before = kinds or (None, first.bias.unsqueeze(0))
        fused = self._fused(scalar=kinds is None)
        if fused is not None:
            later = [p for layer in self.residual_layers[1:] for p in layer.parameters()]
            weights = torch.cat([first.linear.weight[0], *(p.reshape(-1) for p in later)])
            return ops.embedding_sum(x, rows, kind, before, weights, ptr, fused, like)
        if kinds is None:
            return ops.edge_outer_sum(rows, self(x.unsqueeze(1)), ptr, like)
        g = first.phi(x.unsqueeze(1) * first.linear.weight[:1] + ops.gather_rows(before, kinds[0]))
        g = g if first.idt is None else g * first.idt
        for layer in self.layers[1:]:
            g = layer(g)
        return ops.edge_outer_sum(rows, g, ptr, like)

    def _fused(self, *, scalar: bool) -> ops.Network | None:
        """How the fused operator knows this network; None if it does not."""
        layers = self.residual_layers
        phi = layers[0].phi
        if phi.code is None or any(layer.idt is not None for layer in layers):
            return None
        widths = [layer.linear.weight.shape[1] for layer in layers]
        return ops.Network(widths, scalar and layers[0].copies > 0, phi.code, phi.threshold)


class ResidualNetwork(nn.Module):
    """Hidden residual layers of the given widths, then one linear layer."""

    def __init__(
        self, n_in: int, neuron: Sequence[int], n_out: int, activation_name: str, *, resnet_dt: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        phi = activation(activation_name)
        widths = [n_in, *neuron]
        self.hidden = nn.ModuleList(
            ResidualLayer(a, b, phi, resnet_dt=resnet_dt, dtype=dtype) for a, b in itertools.pairwise(widths)
        )
        self.output = Linear(widths[-1], n_out, dtype=dtype)

    @property
    def residual_layers(self) -> list[ResidualLayer]:
        """Hidden layers."""
        return [layer for layer in self.hidden if isinstance(layer, ResidualLayer)]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, n_in)`` to ``(M, n_out)``."""
        for layer in self.hidden:
            x = layer(x)
        return self.output(x)
