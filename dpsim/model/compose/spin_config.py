"""Settings of spin models (spec fittings.md §7). No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from dpsim.config import Config
from dpsim.descriptors import DPA3Config
from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.standard import ModelConfig
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.model.compose.spin import SpinModel

PROTECTION = 0.01
"""Å, added to distances where nothing else is asked for: an atom and its virtual one may be at the same place."""
SUFFIX = "_spin"


class SpinModelConfig(Config):
    """Energies that depend on the spins of the atoms.

    Each magnetic atom has a virtual one, displaced along its spin, that its neighbours see as another kind of atom.
    """

    type: Literal["spin"] = "spin"
    type_map: Annotated[tuple[str, ...], Field(min_length=1)]
    """Chemical symbols; the index of a symbol is the type."""
    virtual_scale: tuple[Annotated[float, Field(ge=0)], ...]
    """Distance of a virtual atom from its atom for a spin of 1 μB, in Å, by type; 0 where a type has no spin."""
    backbone: ModelConfig
    """Model of the atoms and their virtual atoms: twice as many types, those of virtual atoms behind the others."""

    @model_validator(mode="after")
    def _check(self) -> SpinModelConfig:
        n, inner = len(self.type_map), self.backbone
        if len(self.virtual_scale) != n:
            raise ValueError(f"there are {len(self.virtual_scale)} virtual_scale for {n} types: one each is expected")
        if not any(self.virtual_scale):
            raise ValueError("virtual_scale is 0 for all types: at least one must be magnetic")
        if inner.type_map != doubled_type_map(self.type_map):
            raise ValueError(
                f"backbone.type_map is {list(inner.type_map)}, expected {list(doubled_type_map(self.type_map))}"
            )
        if inner.fitting.output != "energy":
            raise ValueError(f"backbone.fitting predicts {inner.fitting.output!r}, expected energies")
        self._check_virtual_atoms()
        return self

    def _check_virtual_atoms(self) -> None:
        n, inner = len(self.type_map), self.backbone
        if missing := sorted(set(range(n, 2 * n)) - set(inner.atom_exclude_types)):
            raise ValueError(f"backbone.atom_exclude_types lacks {missing}: virtual atoms have no energy of their own")
        excluded = {frozenset(pair) for pair in inner.pair_exclude_types}
        if lacking := [p for p in without_neighbors(self.virtual_scale) if frozenset(p) not in excluded]:
            raise ValueError(
                f"backbone.pair_exclude_types lacks {list(lacking[0])}: types without spin have no virtual atoms"
            )
        if not getattr(inner.descriptor, "env_protection", 0.0) > 0:
            raise ValueError(
                "backbone.descriptor.env_protection must be above 0: an atom without a spin is where its virtual one is"
            )

    @classmethod
    def over(cls, model: ModelConfig, virtual_scale: Sequence[float]) -> SpinModelConfig:
        """Spin model of a model of the atoms alone.

        Numbers of neighbours by type serve for virtual atoms as well. A number for all types is taken as it is, so
        it must leave room for the virtual atoms of the neighbours and the atom's own.

        Parameters
        ----------
        model
            Settings for the real types.
        virtual_scale
            Å/μB by type; 0 where a type has no spin.
        """
        settings = doubled_settings(model.model_dump(), virtual_scale)
        return cls(
            type_map=model.type_map, virtual_scale=tuple(virtual_scale), backbone=ModelConfig.model_validate(settings)
        )

    @property
    def use_spin(self) -> tuple[bool, ...]:
        """Which types have a spin."""
        return tuple(scale > 0 for scale in self.virtual_scale)

    @property
    def atom_exclude_types(self) -> tuple[int, ...]:
        """Types of atoms without an energy of their own."""
        return tuple(t for t in self.backbone.atom_exclude_types if t < len(self.type_map))

    def neighbors(self) -> NeighborSpec:
        """Lists of edges of atoms and virtual atoms that the model needs."""
        return self.backbone.neighbors()

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics of environments that are taken from the data; modules as paths within the model."""
        return tuple(block.inside("backbone") for block in self.backbone.environments())

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits."""
        return self.backbone.precision

    def with_precision(self, precision: str, fitting: str | None = None) -> SpinModelConfig:
        """The same model with networks in ``"float32"`` or ``"float64"``; `fitting` may differ."""
        return self.model_copy(update={"backbone": self.backbone.with_precision(precision, fitting)})

    def build(self, seed: int = 0) -> SpinModel:
        """Make the model with parameters drawn from `seed`."""
        import torch

        from dpsim.model.compose.spin import SpinModel

        with torch.random.fork_rng(devices=[]):  # torch's own generator stays as it is
            torch.manual_seed(seed)
            return SpinModel(self)

    @classmethod
    def tiny(cls) -> SpinModelConfig:
        """Smallest instance, for tests: one magnetic type and one that is not."""
        model = ModelConfig(type_map=("O", "H"), descriptor=DPA3Config.tiny(), fitting=EnergyFittingConfig.tiny())
        return cls.over(model, (0.3, 0.0))


def doubled_type_map(type_map: Sequence[str]) -> tuple[str, ...]:
    """Names of the types of atoms and virtual atoms."""
    return (*type_map, *(f"{name}{SUFFIX}" for name in type_map))


def without_neighbors(virtual_scale: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """Pairs of types of the doubled system that are never neighbours: a virtual type without spin, and any other."""
    n = len(virtual_scale)
    idle = [n + t for t, scale in enumerate(virtual_scale) if scale == 0]
    pairs = [(t, p) for p in idle for t in range(2 * n) if t <= p or t not in idle]
    return tuple((min(pair), max(pair)) for pair in pairs)


def doubled_settings(model: Mapping[str, Any], virtual_scale: Sequence[float]) -> dict[str, Any]:
    """Settings of a backbone as a dict from those of a model of the real types."""
    n, apart = len(virtual_scale), without_neighbors(virtual_scale)
    return {
        **model,
        "type_map": doubled_type_map(model["type_map"]),
        "descriptor": _doubled_descriptor(model["descriptor"], n, apart),
        "pair_exclude_types": (*apart, *model.get("pair_exclude_types", ())),
        "atom_exclude_types": (*model.get("atom_exclude_types", ()), *range(n, 2 * n)),
    }


def _doubled_descriptor(
    settings: Mapping[str, Any], n_types: int, apart: tuple[tuple[int, int], ...]
) -> dict[str, Any]:
    if settings.get("type") == "hybrid":
        return {**settings, "list": [_doubled_descriptor(member, n_types, apart) for member in settings["list"]]}
    changed = {
        "env_protection": settings.get("env_protection") or PROTECTION,
        "exclude_types": (*apart, *settings.get("exclude_types", ())),
    }
    sel = settings.get("sel")
    if isinstance(sel, list | tuple) and len(sel) == n_types:
        changed["sel"] = (*sel, *sel)
    return {**settings, **changed}
