"""Settings of a hybrid (spec classic.md §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.descriptors.settings import DescriptorSettings
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors import DescriptorConfig
    from dpsim.descriptors.hybrid.descriptor import Hybrid


class HybridConfig(DescriptorSettings):
    """Several descriptors side by side: their features follow each other.

    The members share the places of the neighbours: neighbours are counted within the largest cutoff.
    """

    type: Literal["hybrid"] = "hybrid"
    list: tuple[DescriptorConfig, ...]
    """Settings of the members."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.list:
            raise ValueError("list names no descriptor: at least one is needed")
        protections = {getattr(member, "env_protection", 0.0) for member in self.list}
        if len(protections) > 1:
            raise ValueError(f"env_protection must be the same in all members: found {sorted(protections)}")
        return self

    @property
    def mixed_types(self) -> bool:
        """Whether a member knows the type of the centre."""
        return any(member.mixed_types for member in self.list)

    @property
    def takes_charge_spin(self) -> bool:
        """Whether total charge and spin multiplicity enter."""
        return any(member.takes_charge_spin for member in self.list)

    @property
    def default_charge_spin(self) -> tuple[int, int] | None:
        """Charge and multiplicity where none are given: of the first member that takes them."""
        return next((member.default_charge_spin for member in self.list if member.takes_charge_spin), None)

    @property
    def message_passing_layers(self) -> int:
        """Of the member that looks farthest."""
        return max(member.message_passing_layers for member in self.list)

    @property
    def gives_basis(self) -> bool:
        """Whether a member gives directions."""
        return any(_gives_basis(member) for member in self.list)

    @property
    def counts_distant_neighbors(self) -> bool:
        """Whether a neighbour beyond a member's cutoff is not the same as an empty place to it."""
        return any(_counts_distant_neighbors(member) for member in self.list)

    @property
    def exclude_types(self) -> tuple[tuple[int, int], ...]:
        """Pairs of types that some member does not see."""
        return tuple(dict.fromkeys(pair for member in self.list for pair in member.exclude_types))

    @property
    def env_protection(self) -> float:
        """Of all members, in Å."""
        return float(getattr(self.list[0], "env_protection", 0.0))

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits."""
        return min(member.precision for member in self.list)

    @property
    def rcut(self) -> float:
        """Largest cutoff radius, in Å."""
        return max(_cutoff(member) for member in self.list)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with changes; a `precision` is given to every member."""
        changes = dict(update or {})
        if "precision" in changes:
            each = {"precision": changes.pop("precision")}
            changes["list"] = tuple(member.model_copy(update=each) for member in changes.get("list", self.list))
        return super().model_copy(update=changes, deep=deep)

    def with_cutoff(self, cutoff: float) -> HybridConfig:
        """The same with another largest cutoff, in Å; those of all members are scaled alike."""
        ratio = cutoff / self.rcut
        members = [member.with_cutoff(_cutoff(member) * ratio).model_dump() for member in self.list]
        return HybridConfig.model_validate({"list": members})

    def neighbors(self, n_types: int, around: float = 0.0) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood: one inner list for each member.

        A member with a limit for each type sees neighbours that are among the nearest of the whole hybrid, and its own
        number of each type of these; the others see as many of the nearest as they ask for.

        Parameters
        ----------
        around
            Å; cutoff of the list in which places are counted, if that is larger.
        """
        specs = [member.neighbors(n_types) for member in self.list]
        cutoff = max(spec.cutoff for spec in specs)
        limits: tuple[int, ...] = ()
        if not self.mixed_types:
            limits = tuple(map(max, zip(*(spec.sel_by_type for spec in specs), strict=True)))
        sel = sum(limits) if limits else max(spec.sel for spec in specs)
        counted = max(cutoff, around)
        inner = tuple(_inside(member, n_types, counted, sel) for member in self.list)
        return NeighborSpec(cutoff, sel, limits, inner=inner)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data."""
        return tuple(
            block.inside(f"members.{k}", k) for k, member in enumerate(self.list) for block in member.environments()
        )

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> Hybrid:
        """Make the module, with fresh parameters from torch's generator.

        Raises
        ------
        ConfigError
            If directions are asked for and no member gives any.
        """
        from dpsim.descriptors.hybrid.descriptor import Hybrid

        wanted = [basis and (_gives_basis(member) or not self.gives_basis) for member in self.list]
        return Hybrid(self, [member.build(type_map, basis=one) for member, one in zip(self.list, wanted, strict=True)])

    @classmethod
    def tiny(cls, n_types: int = 2) -> HybridConfig:
        """Smallest instance that uses every part: for tests."""
        from dpsim.descriptors.se_e2_a.config import SeE2AConfig
        from dpsim.descriptors.se_e2_r.config import SeE2RConfig

        return cls(list=(SeE2AConfig.tiny(n_types), SeE2RConfig.tiny(n_types).with_cutoff(3.2)))


def _inside(member: DescriptorConfig, n_types: int, cutoff: float, sel: int) -> NeighborSpec:
    """List of a member where places are counted within a larger cutoff, over the `sel` nearest."""
    spec = member.neighbors(n_types, cutoff) if isinstance(member, HybridConfig) else member.neighbors(n_types)
    if not member.mixed_types:
        spec = _with_sel(spec, sel)
    return spec._replace(cutoff=cutoff) if _counts_distant_neighbors(member) else spec


def _with_sel(spec: NeighborSpec, sel: int) -> NeighborSpec:
    return spec._replace(sel=sel, inner=tuple(_with_sel(one, sel) for one in spec.inner))


def _gives_basis(member: DescriptorConfig) -> bool:
    return bool(getattr(member, "gives_basis", True))


def _counts_distant_neighbors(member: DescriptorConfig) -> bool:
    return bool(getattr(member, "counts_distant_neighbors", False))


def _cutoff(member: DescriptorConfig) -> float:
    return max((block.rcut for block in member.environments()), default=0.0) or float(getattr(member, "rcut", 0.0))
