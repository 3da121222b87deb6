"""Spin models in a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpsim.errors import ConfigError
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.train.settings.composed_model import CustomPart, LearnedPart
from dpsim.train.settings.standard_model import Section


class SpinModel(Section):
    """Energies that depend on the spins of the atoms: magnetic atoms have virtual ones, displaced along their spins."""

    type: Literal["spin"]
    model: LearnedPart
    """Model of the atoms: a preset, or descriptor and fitting in full. Numbers of neighbours by type serve for virtual
    atoms as well; a number for all types must leave room for them, so choose it twice as large."""
    virtual_scale: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Distance of a virtual atom from its atom for a spin of 1 μB, in Å, for the elements that are magnetic, for
    example ``{Fe: 0.3}``."""

    @model_validator(mode="after")
    def _check(self) -> SpinModel:
        if self.model.type_map is not None:
            raise ValueError("type_map stands in the part: leave it out, the elements are those of the whole model")
        if self.model.preset_out_bias:
            raise ValueError("preset_out_bias stands in a part: energies of elements belong to the whole model")
        return self

    def resolve(self, type_map: tuple[str, ...], precision: str | None) -> SpinModelConfig:
        """Complete settings for these elements; `precision` replaces that of the parts.

        Raises
        ------
        ConfigError
            If a magnetic element is not one of them.
        """
        if unknown := sorted(set(self.virtual_scale) - set(type_map)):
            raise ConfigError(f"model.virtual_scale: {unknown[0]!r} is not in the type map {list(type_map)}")
        plain = self.model.resolve(type_map, precision)
        update = {
            "pair_exclude_types": (*plain.pair_exclude_types, *self.pair_exclude_types),
            "atom_exclude_types": (*plain.atom_exclude_types, *self.atom_exclude_types),
        }
        scale = [self.virtual_scale.get(name, 0.0) for name in type_map]
        return SpinModelConfig.over(plain.model_copy(update=update), scale)

    @classmethod
    def tiny(cls) -> SpinModel:
        """Smallest instance, for tests."""
        return cls.model_validate({"type": "spin", "model": CustomPart.tiny(), "virtual_scale": {"O": 0.3}})
