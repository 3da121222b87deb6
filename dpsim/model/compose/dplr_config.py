"""Settings of models with long-range electrostatics (DPLR, spec fittings.md §5). No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from dpsim.config import Config, Length
from dpsim.descriptors import DPA3Config
from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.fittings import DipoleFittingConfig
from dpsim.model.compose.config import CombinedConfig, LinearModelConfig, ZBLModelConfig
from dpsim.model.standard import ModelConfig

if TYPE_CHECKING:
    from dpsim.model.base import Model


class EwaldConfig(Config):
    """How the electrostatic energy is summed."""

    ewald_h: Length = 1.0
    """Grid spacing, Å: reciprocal vectors reach to half its inverse."""
    ewald_beta: Annotated[float, Field(gt=0)] = 0.4
    """Inverse width of the smeared charges, 1/Å."""


class DPLRModelConfig(CombinedConfig, EwaldConfig):
    """A short-range model, and the electrostatic energy of ions and Wannier centroids.

    Each atom carries the charge of its ion, and beside it, displaced by the dipole that another model predicts, the
    charge of its electrons. The electrostatic energy is the reciprocal part of an Ewald sum over the whole cell, so
    that the structure must be periodic.
    """

    type: Literal["dplr"] = "dplr"
    model: Annotated[ModelConfig | LinearModelConfig | ZBLModelConfig, Field(discriminator="type")]
    """Short-range energies."""
    dipole: ModelConfig
    """Displacement of the Wannier centroid from its atom, Å."""
    model_charge_map: Annotated[dict[str, float], Field(min_length=1)]
    """Charge of the Wannier centroid, in e, of the elements that have one, for example ``{O: -8}``."""
    sys_charge_map: dict[str, float]
    """Charge of the ion, in e, of every element, for example ``{O: 6, H: 1}``."""

    @model_validator(mode="after")
    def _check_charges(self) -> DPLRModelConfig:
        wanted, found = set(self.type_map), set(self.sys_charge_map)
        if wanted != found:
            raise ValueError(f"sys_charge_map has {sorted(found)}, expected a charge for each of {sorted(wanted)}")
        silent = [name for name in self.model_charge_map if name not in centroids(self.dipole)]
        if silent:
            raise ValueError(
                f"model_charge_map has {silent[0]!r}, but the dipole model gives dipoles of "
                f"{', '.join(centroids(self.dipole))} only"
            )
        if extra := sorted(set(self.model_charge_map) - wanted):
            raise ValueError(f"model_charge_map has {extra[0]!r}, which is not in type_map {list(self.type_map)}")
        return self

    @property
    def members(self) -> tuple[Any, ...]:
        """Settings of the parts, in their order."""
        return self.model, self.dipole

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each part has to predict."""
        return "energy", "dipole"

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics of environments that are taken from the data: those of the short-range part."""
        return tuple(block for block in super().environments() if block.module.startswith("models.0."))

    def with_precision(self, precision: str, fitting: str | None = None) -> DPLRModelConfig:
        """The same model with networks in ``"float32"`` or ``"float64"``; `fitting` may differ."""
        parts = {name: getattr(self, name).with_precision(precision, fitting) for name in ("model", "dipole")}
        return self.model_copy(update=parts)

    def module(self) -> Model:
        """Make the model with parameters from torch's generator."""
        from dpsim.model.compose.dplr import DPLRModel

        return DPLRModel(self)

    @classmethod
    def tiny(cls) -> DPLRModelConfig:
        """Smallest instance, for tests."""
        dipole = ModelConfig(type_map=("O", "H"), descriptor=DPA3Config.tiny(), fitting=DipoleFittingConfig.tiny())
        return cls(
            type_map=("O", "H"),
            model=ModelConfig.tiny(),
            dipole=dipole,
            model_charge_map={"O": -8.0},
            sys_charge_map={"O": 6.0, "H": 1.0},
        )


def centroids(dipole: ModelConfig) -> tuple[str, ...]:
    """Elements whose atoms have a dipole, in the order of the model's types."""
    excluded = {*dipole.atom_exclude_types, *dipole.fitting.exclude_types}
    return tuple(name for t, name in enumerate(dipole.type_map) if t not in excluded)
