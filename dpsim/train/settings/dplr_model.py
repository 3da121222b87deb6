"""Models with electrostatics in a training: the short-range part is trained on what the electrostatics leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from dpsim.config import first_problem
from dpsim.errors import ConfigError
from dpsim.model.compose.dplr_config import DPLRModelConfig, EwaldConfig, centroids
from dpsim.model.config import ModelConfig
from dpsim.train.settings.composed_model import CustomPart, LearnedPart
from dpsim.train.settings.standard_model import Section

if TYPE_CHECKING:
    from dpsim.model.base import Model

Charges = Annotated[dict[str, float], Field(min_length=1)] | Annotated[tuple[float, ...], Field(min_length=1)]


class DPLRModel(Section, EwaldConfig):
    """A short-range model beside the electrostatics of ions and Wannier centroids, which a dipole model displaces.

    Before the first step the electrostatic energy, forces and virial are taken from the labels. The model that is
    written holds both parts.
    """

    type: Literal["dplr"]
    model: LearnedPart
    """The short-range model: a preset, or descriptor and fitting in full."""
    dipole: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
    """A trained model of the dipoles: a file, or in a workflow the output of a train stage. It stays as it is."""
    model_charge_map: Charges
    """Charge of the Wannier centroid, in e: by element, for example ``{O: -8}``, or a list in the order of the elements
    that the dipole model gives dipoles of."""
    sys_charge_map: Charges
    """Charge of the ion, in e: by element, for example ``{O: 6, H: 1}``, or a list in the order of the type map."""

    @model_validator(mode="after")
    def _check(self) -> DPLRModel:
        if self.model.type_map is not None:
            raise ValueError("type_map stands in the part: leave it out, the elements are those of the whole model")
        if self.model.preset_out_bias:
            raise ValueError("preset_out_bias stands in a part: energies of elements belong to the whole model")
        return self

    def resolve(self, type_map: tuple[str, ...], precision: str | None) -> DPLRModelConfig:
        """Complete settings for these elements; `precision` replaces that of the short-range part.

        Raises
        ------
        ConfigError
            If the charges, the dipole model and the elements do not fit each other.
        ModelError
            If the dipole model cannot be read.
        """
        dipole = self.dipole_model().config
        if not isinstance(dipole, ModelConfig):
            raise ConfigError(f"model.dipole: {self.dipole} is a {dipole.type} model, expected one of dipoles")
        try:
            return DPLRModelConfig(
                type_map=type_map,
                model=self.model.resolve(type_map, precision),
                dipole=dipole,
                model_charge_map=_by_element(self.model_charge_map, centroids(dipole), "model_charge_map"),
                sys_charge_map=_by_element(self.sys_charge_map, type_map, "sys_charge_map"),
                ewald_h=self.ewald_h,
                ewald_beta=self.ewald_beta,
                pair_exclude_types=self.pair_exclude_types,
                atom_exclude_types=self.atom_exclude_types,
            )
        except ValidationError as error:
            raise ConfigError(first_problem(error, "model")) from None

    def complete(self, model: Model) -> None:
        """Put the dipole model into a new model."""
        part: Any = model.get_submodule("models.1")
        part.load_state_dict(self.dipole_model().state_dict())

    def dipole_model(self) -> Model:
        """The trained model of the dipoles."""
        from dpsim.train.records.state import read_model

        return read_model(Path(self.dipole))

    @classmethod
    def tiny(cls) -> DPLRModel:
        """Smallest instance, for tests; the file is not there."""
        settings = {"type": "dplr", "model": CustomPart.tiny(), "dipole": "dipole.safetensors"}
        return cls.model_validate(settings | {"model_charge_map": {"O": -8}, "sys_charge_map": {"O": 6, "H": 1}})


def _by_element(charges: dict[str, float] | tuple[float, ...], elements: tuple[str, ...], key: str) -> dict[str, float]:
    if isinstance(charges, dict):
        return charges
    if len(charges) != len(elements):
        raise ConfigError(f"model.{key} has {len(charges)} charges, expected one for each of {', '.join(elements)}")
    return dict(zip(elements, charges, strict=True))
