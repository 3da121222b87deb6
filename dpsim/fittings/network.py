"""The network that all fittings share: from descriptor and parameters to a row of numbers (spec common.md §10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dpsim import ops
from dpsim.fittings.settings import FittingSettings
from dpsim.nn.linear import Linear, ResidualNetwork
from dpsim.physics.neighborhood import Neighborhood

if TYPE_CHECKING:
    from dpsim.descriptors.described import Described


class FittingNetwork(nn.Module):
    """Rows ``(N, n_out)`` from descriptors ``(N, D)`` and the parameters of frames and atoms.

    With ``mixed_types`` (descriptors that know the element of the centre) one network serves all types,
    otherwise each type has its own.

    Parameters
    ----------
    own_bias
        Rows have a bias by type that is part of the network, because the output bias is not added to them or acts
        on something else than rows.
    """

    fparam_mean: Tensor
    fparam_inv_std: Tensor
    aparam_mean: Tensor
    aparam_inv_std: Tensor
    case_embedding: Tensor
    bias_by_type: Tensor
    weight_by_type: Tensor

    def __init__(
        self,
        config: FittingSettings,
        n_types: int,
        dim_descriptor: int,
        n_out: int,
        *,
        mixed_types: bool,
        own_bias: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.dim_descriptor, self.own_bias = config, dim_descriptor, own_bias
        self.dtype = torch.float32 if config.precision == "float32" else torch.float64
        self._scales("fparam", config.numb_fparam)
        self._scales("aparam", config.numb_aparam)
        if config.dim_case_embd:
            self.register_buffer("case_embedding", torch.zeros(config.dim_case_embd, dtype=self.dtype))
        n_in = dim_descriptor + config.numb_fparam + config.numb_aparam + config.dim_case_embd
        self.networks = nn.ModuleList(
            ResidualNetwork(
                n_in, config.neuron, n_out, config.activation_function, resnet_dt=config.resnet_dt, dtype=self.dtype
            )
            for _ in range(1 if mixed_types else n_types)
        )
        if own_bias:
            self.register_buffer("bias_by_type", torch.zeros(n_types, n_out, dtype=self.dtype))
        weight = torch.ones(n_types, 1, dtype=self.dtype)
        weight[list(config.exclude_types)] = 0.0
        self.register_buffer("weight_by_type", weight, persistent=False)

    def _scales(self, name: str, size: int) -> None:
        if size:
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=self.dtype))
            self.register_buffer(f"{name}_inv_std", torch.ones(size, dtype=self.dtype))

    def rows(self, features: Tensor, hood: Neighborhood) -> Tensor:
        """Rows ``(N, n_out)`` in the network's floating-point type; zero for excluded types."""
        out = self.evaluate(self.inputs(features.to(self.dtype), hood), hood.types)
        if self.own_bias:
            out = out + self.bias_by_type.index_select(0, hood.types)
        return out * self.weight_by_type.index_select(0, hood.types) if self.config.exclude_types else out

    def inputs(self, features: Tensor, hood: Neighborhood) -> Tensor:
        """What enters the network, ``(N, n_in)``: descriptor, scaled parameters, case vector."""
        parts = [features]
        if self.config.numb_fparam:
            assert hood.fparam is not None, "the model takes frame parameters"
            scaled = (hood.fparam.to(self.dtype) - self.fparam_mean) * self.fparam_inv_std
            parts.append(scaled.index_select(0, hood.frame))
        if self.config.numb_aparam:
            assert hood.aparam is not None, "the model takes atomic parameters"
            parts.append((hood.aparam.to(self.dtype) - self.aparam_mean) * self.aparam_inv_std)
        if self.config.dim_case_embd:
            parts.append(self.case_embedding.expand(features.shape[0], -1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else features

    def evaluate(self, x: Tensor, types: Tensor) -> Tensor:
        """Rows ``(N, n_out)`` of inputs ``(N, n_in)``."""
        if len(self.networks) == 1:
            out: Tensor = self.networks[0](x)
            return out
        return of_types([network for network in self.networks if isinstance(network, ResidualNetwork)], x, types)

    def with_bias(self, values: Tensor, bias: Tensor, std: Tensor, types: Tensor) -> Tensor:
        """Atomic outputs ``(N, ...)`` with the output bias ``(n_types, ...)`` of their types added, in float64."""
        return values + bias.index_select(0, types)


def of_types(networks: Sequence[ResidualNetwork], x: Tensor, types: Tensor) -> Tensor:
    """Rows ``(N, n_out)`` of the network of the type of each row; networks of the same widths, one for each type."""
    for layers in zip(*(network.residual_layers for network in networks), strict=True):
        first = layers[0]
        y = first.phi(_linear([layer.linear for layer in layers], x, types))
        if first.idt is not None:
            scales = tuple(layer.idt for layer in layers if layer.idt is not None)
            y = y * torch.stack(scales).index_select(0, types)
        x = y if first.copies == 0 else y + torch.cat([x] * first.copies, dim=1)
    return _linear([network.output for network in networks], x, types)


def _linear(maps: Sequence[Linear], x: Tensor, types: Tensor) -> Tensor:
    """The map of the type of each row."""
    y = ops.typed_matmul(x, [one.weight for one in maps], types)
    biases = tuple(one.bias for one in maps if one.bias is not None)
    return y + torch.stack(biases).index_select(0, types) if biases else y


def directions(described: Described, dtype: torch.dtype) -> Tensor:
    """Directions ``(N, M, 3)`` of a descriptor that was built with them, in a floating-point type."""
    assert described.basis is not None, "the descriptor was built without directions"
    return described.basis.to(dtype)
