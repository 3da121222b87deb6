"""`LinearModel`: a weighted sum of the energies of other models (spec fittings.md §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.compose.base import EnergyModel
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import ModelInputs

if TYPE_CHECKING:
    from dpsim.model.compose.config import LinearModelConfig, ZBLModelConfig
    from dpsim.model.compose.dplr_config import DPLRModelConfig


class CombinedModel(EnergyModel):
    """Several models of the same atoms; each sees its own list of edges and its own numbering of the types."""

    def __init__(self, config: LinearModelConfig | ZBLModelConfig | DPLRModelConfig) -> None:
        super().__init__(config)
        members = [_member(member) for member in config.members]
        self.models = nn.ModuleList(members)
        for index, member in enumerate(config.members):
            types = torch.tensor(config.types_in(member), dtype=torch.int64)
            self.register_buffer(f"types_{index}", types, persistent=False)
        self.inputs = common_inputs([model.inputs for model in members])
        self.message_passing_layers = max(model.message_passing_layers for model in members)
        self.shortest = max(model.shortest for model in members)
        self.add_output(len(config.type_map), config.atom_exclude_types)

    def member_energies(self, hood: Neighborhood) -> list[Tensor]:
        """Atomic energies ``(N,)`` of each part, its own bias included."""
        return [self.member(index, hood) for index in range(len(self.models))]

    def member(self, index: int, hood: Neighborhood) -> Tensor:
        """Atomic outputs ``(N, ...)`` of a part."""
        types = self.get_buffer(f"types_{index}")
        part = hood.within(index)._replace(
            types=types.index_select(0, hood.types), row_types=types.index_select(0, hood.row_types)
        )
        output: Tensor = self.models[index](part)
        return output


class LinearModel(CombinedModel):
    """``E_i = Σ_k w_k E_i^k``, and the output bias of the sum."""

    def forward(self, neighborhood: Neighborhood) -> Tensor:
        """Atomic energies ``(N,)`` in eV, float64, output bias included."""
        parts = self.member_energies(neighborhood)
        terms = [weight * energy for weight, energy in zip(self.config.factors, parts, strict=True)]
        return self.with_bias(torch.stack(terms).sum(dim=0), neighborhood)


def _member(config: object) -> Model:
    """A part, with parameters from torch's generator: parts of equal settings must not begin equal."""
    from dpsim.model.potential import PotentialModel
    from dpsim.model.standard import ModelConfig

    if isinstance(config, ModelConfig):
        return PotentialModel(config)
    member: Model = config.module()  # type: ignore[attr-defined]
    return member


def common_inputs(inputs: Sequence[ModelInputs]) -> ModelInputs:
    """What parts take together; a default holds where all that need the input have the same.

    Raises
    ------
    ConfigError
        If parts take different numbers of parameters.
    """
    common = ModelInputs()
    for name, default in (("n_fparam", "default_fparam"), ("n_aparam", ""), ("charge_spin", "default_charge_spin")):
        takers = [one for one in inputs if getattr(one, name)]
        sizes = sorted({int(getattr(one, name)) for one in takers})
        if len(sizes) > 1:
            what = name.removeprefix("n_")
            raise ConfigError(f"parts take {sizes} numbers of {what}: all that take any must take as many")
        if takers:
            common = common._replace(**{name: getattr(takers[0], name)})
        defaults = {getattr(one, default) for one in takers} if default else set()
        if len(defaults) == 1:
            common = common._replace(**{default: defaults.pop()})
    return common
