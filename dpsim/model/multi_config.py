"""Settings of models with several heads (spec fittings.md §12). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dpsim.config import Config
from dpsim.model.config import AnyModelConfig, read_config

if TYPE_CHECKING:
    from dpsim.model.multi_task import MultiTaskModel

RANDOM = "RANDOM"
"""No name of a head: a fine-tuning asks with it for a new fitting net."""


def _standard(value: Any) -> Any:
    return {"type": "standard", **value} if isinstance(value, Mapping) else value


HeadModel = Annotated[
    Annotated[AnyModelConfig, Field(discriminator="type")],
    BeforeValidator(_standard, json_schema_input_type=AnyModelConfig),
]


class HeadConfig(Config):
    """One head: a model of its own, of which parts may belong to other heads as well."""

    model: HeadModel
    """Its settings, in full."""
    aliases: tuple[str, ...] = ()
    """Other names by which it may be asked for."""


class SharedPart(Config):
    """A part that is the same in several heads."""

    part: Annotated[str, Field(min_length=1)]
    """Path of the module within the heads: ``descriptor``, ``descriptor.type_embedding``, ``fitting`` (all of it but
    the vector that tells heads apart and biases by type)."""
    heads: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of the heads."""


class MultiTaskConfig(Config):
    """Several models of the same elements that have parts in common, for data of different origin."""

    type: Literal["multi"] = "multi"
    heads: Annotated[dict[str, HeadConfig], Field(min_length=1)]
    """Heads by name."""
    shared: tuple[SharedPart, ...] = ()
    """What they have in common."""

    @model_validator(mode="after")
    def _check_names(self) -> MultiTaskConfig:
        names = [name for key, head in self.heads.items() for name in (key, *head.aliases)]
        if RANDOM in names or "" in names:
            raise ValueError(f"a head cannot have the name {RANDOM if RANDOM in names else ''!r}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two heads have the name {twice[0]!r}")
        maps = {head.model.type_map for head in self.heads.values()}
        if len(maps) > 1:
            raise ValueError(f"heads have different type maps ({'; '.join(' '.join(one) for one in sorted(maps))})")
        return self

    @model_validator(mode="after")
    def _check_shared(self) -> MultiTaskConfig:
        seen: set[tuple[str, str]] = set()
        for group in self.shared:
            for name in group.heads:
                if name not in self.heads:
                    raise ValueError(f"shared: {group.part} is to be shared by {name!r}, which is no head")
                if (group.part, name) in seen:
                    raise ValueError(f"shared: {group.part} of {name!r} is named twice")
                seen.add((group.part, name))
            self._check_equal(group)
        return self

    def _check_equal(self, group: SharedPart) -> None:
        if group.part in ("descriptor", "fitting"):
            first, *others = group.heads
            settings = getattr(self.heads[first].model, group.part, None)
            for name in others:
                if getattr(self.heads[name].model, group.part, None) != settings:
                    raise ValueError(f"heads {first} and {name} share {group.part}, but its settings differ")

    @property
    def type_map(self) -> tuple[str, ...]:
        """Elements, those of every head."""
        return next(iter(self.heads.values())).model.type_map

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits."""
        return min(head.model.precision for head in self.heads.values())

    def build(self, seed: int = 0) -> MultiTaskModel:
        """Make the model with parameters drawn from `seed`."""
        from dpsim.model.multi_task import MultiTaskModel

        return MultiTaskModel(self, seed)

    @classmethod
    def tiny(cls) -> MultiTaskConfig:
        """Smallest instance, for tests: two heads on one descriptor."""
        from dpsim.model.standard import ModelConfig

        head = HeadConfig(model=ModelConfig.tiny())
        return cls(heads={"a": head, "b": head}, shared=(SharedPart(part="descriptor", heads=("a", "b")),))


def read_settings(settings: Mapping[str, Any]) -> AnyModelConfig | MultiTaskConfig:
    """Settings of a model with one head or several from their JSON form; raises pydantic's `ValidationError`."""
    return MultiTaskConfig.model_validate(settings) if settings.get("type") == "multi" else read_config(settings)
