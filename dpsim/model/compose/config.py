"""Settings of models that are made of others (spec fittings.md §4). No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from dpsim.config import Config, Distance, Length
from dpsim.descriptors import DPA3Config
from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.compose.table import check_table, n_pairs, read_table
from dpsim.model.standard import ModelConfig
from dpsim.physics.neighbors import NeighborSpec, combined

if TYPE_CHECKING:
    from dpsim.model.base import Model

NOWHERE = ((-1, -1),)
"""For `NeighborSpec.only`, where an empty tuple means everywhere: no pair of types."""


class ComposedConfig(Config):
    """What all of them have."""

    type_map: Annotated[tuple[str, ...], Field(min_length=1)]
    """Chemical symbols; the index of a symbol is the type."""
    pair_exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    atom_exclude_types: tuple[int, ...] = ()
    """Types that are neighbours of others but have no energy of their own."""

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        if len(set(self.type_map)) != len(self.type_map):
            raise ValueError(f"type_map {list(self.type_map)} names an element twice")
        excluded = {t for pair in self.pair_exclude_types for t in pair} | set(self.atom_exclude_types)
        outside = sorted(t for t in excluded if not 0 <= t < len(self.type_map))
        if outside:
            raise ValueError(f"excluded types {outside} are outside 0..{len(self.type_map) - 1}")
        return self

    def module(self) -> Model:
        """Make the model with parameters from torch's generator."""
        raise NotImplementedError

    def build(self, seed: int = 0) -> Model:
        """Make the model with parameters drawn from `seed`."""
        import torch

        with torch.random.fork_rng(devices=[]):  # torch's own generator stays as it is
            torch.manual_seed(seed)
            return self.module()


class PairTableConfig(ComposedConfig):
    """Energies of pairs from a table, half of each given to either atom: ``E_i = ½ Σ_j u(r_ij)``.

    The table is part of the settings: a model file needs no other. Closer than its first distance the energy goes on
    in a straight line, with the slope between the first two rows.
    """

    type: Literal["pairtab"] = "pairtab"
    rcut: Length
    """Cutoff radius; the energy is zero from here on."""
    sel: Annotated[int, Field(gt=0)]
    """Nearest neighbours kept for an atom that has more."""
    table: tuple[tuple[float, ...], ...]
    """Rows of a distance in Å and the energies in eV of the pairs of types 00, 01, …, 0n, 11, … up to the cutoff;
    the distances are evenly spaced."""

    @model_validator(mode="after")
    def _check_table(self) -> PairTableConfig:
        width = 1 + n_pairs(len(self.type_map))
        wrong = next((k for k, row in enumerate(self.table) if len(row) != width), None)
        if wrong is not None:
            raise ValueError(
                f"row {wrong + 1} of the table has {len(self.table[wrong])} numbers, expected {width}: "
                f"the distance and the energies of all pairs of {len(self.type_map)} types"
            )
        check_table(np.array(self.table, dtype=np.float64).reshape(-1, width))
        return self

    @classmethod
    def from_file(
        cls, path: str | Path, type_map: tuple[str, ...], rcut: float, sel: int, **settings: Any
    ) -> PairTableConfig:
        """Settings with the table of a text file, extended to the cutoff.

        Parameters
        ----------
        path
            One row a distance: the distance in Å, then the energies of the pairs in eV.
        settings
            Others, by name.

        Raises
        ------
        ConfigError
            If the file is missing or no table for these types.
        """
        rows = read_table(path, rcut, len(type_map))
        return cls(type_map=type_map, rcut=rcut, sel=sel, table=tuple(map(tuple, rows.tolist())), **settings)

    def neighbors(self) -> NeighborSpec:
        """Lists of edges that the model needs."""
        return NeighborSpec(self.rcut, self.sel, exclude_types=self.pair_exclude_types)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Nothing is taken from the data."""
        return ()

    @property
    def precision(self) -> str:
        """Tables are always evaluated in ``"float64"``."""
        return "float64"

    def with_precision(self, precision: str, fitting: str | None = None) -> PairTableConfig:
        """The same: there is no network."""
        return self

    def module(self) -> Model:
        """Make the model."""
        from dpsim.model.compose.pair_table import PairTable

        return PairTable(self)

    @classmethod
    def tiny(cls) -> PairTableConfig:
        """Smallest instance, for tests: repulsion that fades out before the cutoff."""
        r = np.linspace(0.2, 4.0, 39)
        fade = np.where(r < 3.8, 1 - r / 3.8, 0.0) ** 3
        columns = [r, *(strength * np.exp(-r) * fade for strength in (30.0, 20.0, 10.0))]
        rows = tuple(map(tuple, np.stack(columns, axis=1).tolist()))
        return cls(type_map=("O", "H"), rcut=4.0, sel=40, table=rows)


def _typed(value: Any) -> Any:
    return {"type": "standard", **value} if isinstance(value, dict) else value


MemberConfig = Annotated[
    Annotated[ModelConfig | PairTableConfig, Field(discriminator="type")],
    BeforeValidator(_typed, json_schema_input_type=ModelConfig | PairTableConfig),
]
"""What can be part of another model."""


class CombinedConfig(ComposedConfig):
    """Several models of the same atoms."""

    @property
    def members(self) -> tuple[Any, ...]:
        """Settings of the parts, in their order."""
        raise NotImplementedError

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each part has to predict."""
        return ("energy",) * len(self.members)

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        for index, member in enumerate(self.members):
            missing = [name for name in self.type_map if name not in member.type_map]
            if missing:
                raise ValueError(
                    f"part {index} does not know {', '.join(missing)}: its type_map {list(member.type_map)} must "
                    f"hold all of {list(self.type_map)}"
                )
            found = member.fitting.output if isinstance(member, ModelConfig) else "energy"
            if found != self.outputs[index]:
                raise ValueError(f"part {index} predicts {found!r}, expected {self.outputs[index]!r}")
        return self

    def types_in(self, member: ComposedConfig | ModelConfig) -> tuple[int, ...]:
        """Type in a member of each type of the model."""
        return tuple(member.type_map.index(name) for name in self.type_map)

    def neighbors(self) -> NeighborSpec:
        """Lists of edges that the model needs: those of its parts, in one."""
        specs = [_in_types(member.neighbors(), self.types_in(member)) for member in self.members]
        return combined(specs)._replace(exclude_types=self.pair_exclude_types)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics of environments that are taken from the data; modules as paths within the model."""
        blocks = []
        for index, member in enumerate(self.members):
            types = self.types_in(member)
            for block in member.environments():
                inner = block.inside(f"models.{index}", index)
                excluded = _pairs_in(block.exclude_types, types)
                sel = block.sel * (len(member.type_map) if block.sel_of_each_type else 1)
                blocks.append(inner._replace(rows=types, exclude_types=excluded, sel=sel, sel_of_each_type=False))
        return tuple(blocks)

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits: float32 if any part has it."""
        return min(member.precision for member in self.members)


class LinearModelConfig(CombinedConfig):
    """Weighted sum of the energies of other models."""

    type: Literal["linear"] = "linear"
    models: Annotated[tuple[MemberConfig, ...], Field(min_length=1)]
    """Parts; each knows all elements of `type_map`, and perhaps more."""
    weights: Literal["mean", "sum"] | tuple[float, ...] = "mean"
    """One factor a part; ``sum`` means 1, ``mean`` one over the number of parts."""

    @model_validator(mode="after")
    def _check_weights(self) -> LinearModelConfig:
        if not isinstance(self.weights, str) and len(self.weights) != len(self.models):
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.models)} models: one each is expected"
            )
        return self

    @property
    def members(self) -> tuple[ModelConfig | PairTableConfig, ...]:
        """Settings of the parts, in their order."""
        return self.models

    @property
    def factors(self) -> tuple[float, ...]:
        """The weights as numbers."""
        if isinstance(self.weights, str):
            return (1.0 if self.weights == "sum" else 1.0 / len(self.models),) * len(self.models)
        return self.weights

    def with_precision(self, precision: str, fitting: str | None = None) -> LinearModelConfig:
        """The same model with networks in ``"float32"`` or ``"float64"``; `fitting` may differ."""
        return self.model_copy(update={"models": tuple(m.with_precision(precision, fitting) for m in self.models)})

    def module(self) -> Model:
        """Make the model with parameters from torch's generator."""
        from dpsim.model.compose.linear import LinearModel

        return LinearModel(self)

    @classmethod
    def tiny(cls) -> LinearModelConfig:
        """Smallest instance, for tests."""
        return cls(type_map=("O", "H"), models=(ModelConfig.tiny(), PairTableConfig.tiny()), weights=(0.7, 0.4))


class ZBLModelConfig(CombinedConfig):
    """A learned model that gives way to a table of pair energies where atoms come close.

    ``E_i = (1 − w_i) E_i^model + w_i E_i^table``, where ``w_i`` falls from one to zero as the (soft) distance of the
    nearest neighbour grows from `sw_rmin` to `sw_rmax`.
    """

    type: Literal["zbl"] = "zbl"
    model: ModelConfig
    """The learned model."""
    table: PairTableConfig
    """Energies of pairs at short distances."""
    sw_rmin: Distance
    """Distance of the nearest neighbour below which the table alone counts."""
    sw_rmax: Length
    """Distance of the nearest neighbour above which the learned model alone counts."""
    smin_alpha: Length = 0.1
    """Decay length of the soft minimum of the distances."""

    @model_validator(mode="after")
    def _check_switch(self) -> ZBLModelConfig:
        if self.sw_rmin >= self.sw_rmax:
            raise ValueError(f"sw_rmin ({self.sw_rmin} Å) must be smaller than sw_rmax ({self.sw_rmax} Å)")
        return self

    @property
    def members(self) -> tuple[ModelConfig | PairTableConfig, ...]:
        """Settings of the parts, in their order."""
        return self.model, self.table

    @property
    def nearest_cutoff(self) -> float:
        """Neighbours up to here enter the distance of the nearest: those of the part that keeps more of them."""
        model = self.model.neighbors()
        return self.table.rcut if self.table.sel >= model.sel else model.cutoff

    def with_precision(self, precision: str, fitting: str | None = None) -> ZBLModelConfig:
        """The same model with networks in ``"float32"`` or ``"float64"``; `fitting` may differ."""
        return self.model_copy(update={"model": self.model.with_precision(precision, fitting)})

    def module(self) -> Model:
        """Make the model with parameters from torch's generator."""
        from dpsim.model.compose.zbl import ZBLModel

        return ZBLModel(self)

    @classmethod
    def tiny(cls) -> ZBLModelConfig:
        """Smallest instance, for tests: the switch lies where structures of the battery have neighbours."""
        learned = ModelConfig(type_map=("O", "H"), descriptor=DPA3Config.tiny(), fitting=EnergyFittingConfig.tiny())
        return cls(type_map=("O", "H"), model=learned, table=PairTableConfig.tiny(), sw_rmin=0.8, sw_rmax=2.5)


def _pairs_in(pairs: Sequence[tuple[int, int]], types: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of types of a member as those of the model, without types that the model does not have."""
    place = {t: k for k, t in enumerate(types)}
    return tuple((place[a], place[b]) for a, b in pairs if a in place and b in place)


def _in_types(spec: NeighborSpec, types: tuple[int, ...]) -> NeighborSpec:
    """Lists of a member in the types of the model; `types` are those of the member by type of the model."""
    only = _pairs_in(spec.only, types)
    return spec._replace(
        sel_by_type=tuple(spec.sel_by_type[t] for t in types) if spec.sel_by_type else (),
        exclude_types=_pairs_in(spec.exclude_types, types),
        only=only or (NOWHERE if spec.only else ()),
        inner=tuple(_in_types(one, types) for one in spec.inner),
    )
