"""The standard model in a training: a preset with changes, or descriptor and fitting in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from dpsim.config import Config, InnerErrors, Length
from dpsim.descriptors import DescriptorConfig
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.fittings import EnergyFittingConfig, FittingConfig
from dpsim.model.presets import PRESETS
from dpsim.model.standard import ModelConfig

if TYPE_CHECKING:
    from dpsim.model.base import Model

ElementBias = float | tuple[float, ...]
"""Output bias of an element: an energy in eV, or as many numbers as the output of an atom has."""
_Part = TypeVar("_Part", bound=Config)
_PRESET_SCHEMA: dict[str, Any] = {
    "enum": list(PRESETS),
    # what editors show beside each choice
    "enumDescriptions": [f"{p.about}; {p.parameters:,} parameters for two elements" for p in PRESETS.values()],
}


class Section(Config):
    """What all forms of the section ``model`` share."""

    pair_exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    atom_exclude_types: tuple[int, ...] = ()
    """Types that are neighbours of others but have no energy of their own."""
    preset_out_bias: dict[str, ElementBias] = {}
    """Output biases that are given instead of fitted to the data, by element: energies in eV, for example
    ``{O: -432.1}``; of polarizabilities (row by row), densities of states and properties lists of numbers."""

    def complete(self, model: Model) -> None:
        """Put into a new model what is neither trained nor taken from the data; nothing as a rule."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out options that came later, where they have no effect: cache keys of older trainings stay."""
        values: dict[str, Any] = handler(self)
        silent = {"preset_out_bias": {}, "type": "standard"}
        return {key: value for key, value in values.items() if key not in silent or silent[key] != value}


class StandardSection(Section):
    """What both forms of the standard model share."""

    def parts(self) -> tuple[DescriptorConfig, FittingConfig]:
        """Complete settings of descriptor and fitting."""
        raise NotImplementedError

    def resolve(self, type_map: tuple[str, ...], precision: str | None) -> ModelConfig:
        """Complete settings for these elements; `precision` replaces that of both parts."""
        descriptor, fitting = self.parts()
        if precision is not None:
            descriptor = descriptor.model_copy(update={"precision": precision})
            fitting = fitting.model_copy(update={"precision": precision})
        return ModelConfig(
            type_map=type_map,
            descriptor=descriptor,
            fitting=fitting,
            pair_exclude_types=self.pair_exclude_types,
            atom_exclude_types=self.atom_exclude_types,
        )


class PresetModel(StandardSection):
    """Ready-made settings by name, with changes."""

    preset: Annotated[str, Field(json_schema_extra=_PRESET_SCHEMA)]
    """Name of the preset."""
    cutoff: Length | None = None
    """Cutoff radius instead of the preset's; switch widths stay, `e_sel` grows with the volume."""
    descriptor: dict[str, Any] = {}
    """Settings of the descriptor that replace the preset's, for example ``{repflow: {nlayers: 4}}``."""
    fitting: dict[str, Any] = {}
    """Settings of the fitting that replace the preset's."""

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
        return name

    @model_validator(mode="after")
    def _check(self) -> PresetModel:
        self.parts()
        return self

    def parts(self) -> tuple[DescriptorConfig, FittingConfig]:
        """Settings of the preset with the changes applied."""
        descriptor, fitting, *_ = PRESETS[self.preset]
        if self.cutoff is not None:
            if place := _cutoff_in(self.descriptor, "descriptor"):
                raise ValueError(f"cutoff and {place} exclude each other: give one")
            try:
                descriptor = descriptor.with_cutoff(self.cutoff)
            except ValidationError as error:
                problem = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"cutoff ({self.cutoff} Å) does not fit the preset: {problem}") from None
        return _changed(descriptor, self.descriptor, "descriptor"), _changed(fitting, self.fitting, "fitting")


class CustomModel(StandardSection):
    """Descriptor and fitting in full."""

    type: Literal["standard"] = "standard"
    descriptor: DescriptorConfig
    """From the neighbourhood to features of each atom."""
    fitting: FittingConfig = EnergyFittingConfig()
    """From the features to the atomic energy."""

    def parts(self) -> tuple[DescriptorConfig, FittingConfig]:
        """Descriptor and fitting as they are."""
        return self.descriptor, self.fitting

    @classmethod
    def tiny(cls) -> CustomModel:
        """Smallest instance, for tests."""
        return cls(descriptor=DPA3Config.tiny(), fitting=EnergyFittingConfig.tiny())


def _cutoff_in(changes: dict[str, Any], where: str) -> str:
    """Place of a changed cutoff radius or switch, if there is one."""
    for key, value in changes.items():
        inner = _cutoff_in(value, f"{where}.{key}") if isinstance(value, dict) else ""
        if inner or key in ("rcut", "rcut_smth", "e_rcut", "e_rcut_smth"):
            return inner or f"{where}.{key}"
    return ""


def _changed(part: _Part, changes: dict[str, Any], where: str) -> _Part:
    try:
        return type(part).model_validate(merged(part.model_dump(), changes))
    except ValidationError as error:
        raise InnerErrors(error, where) from None


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with changes, also within those within."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result
