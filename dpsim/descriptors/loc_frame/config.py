"""Settings of loc_frame; hyper-parameters keep the names of the input files of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dpsim.config import Length
from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.descriptors.settings import DescriptorSettings
from dpsim.descriptors.typed_config import Places, places, scaled_places
from dpsim.errors import ConfigError
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors.loc_frame.descriptor import LocFrame

_NO_LIMIT = 2**31 - 1
_RULE = 6  # numbers of a rule: class, type and rank of two atoms


class Layout(NamedTuple):
    """Slots of the neighbours of one centre: full ones by type, then radial ones by type."""

    full: tuple[int, ...]
    """Slots of each type with all four numbers."""
    radial: tuple[int, ...]
    """Slots of each type with the distance alone."""

    @property
    def n_full(self) -> int:
        """Number of full slots."""
        return sum(self.full)

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return sum(self.full) + sum(self.radial)

    def slot(self, radial: bool, neighbor: int, rank: int) -> int:
        """Slot of a neighbour of one class and type, the nearest having rank 0."""
        if radial:
            return self.n_full + sum(self.radial[:neighbor]) + rank
        return sum(self.full[:neighbor]) + rank


class LocFrameConfig(DescriptorSettings):
    """The first Deep Potential (arXiv:1707.09571): the nearest neighbours of each type, in order, seen from a frame
    that two of them span.

    It is not smooth: energy and forces jump where neighbours change places in the order of distances or cross the
    cutoff, and mirror images differ. Neighbours at the same distance have no order, so crystals of high symmetry and
    cells smaller than twice the cutoff are not for it. `dpsim freeze` finds both in its checks: use ``--no-checks``.
    """

    gives_basis: ClassVar[bool] = False

    type: Literal["loc_frame"] = "loc_frame"
    rcut: Length = 6.0
    """Cutoff radius."""
    sel_a: Places
    """Nearest neighbours of each type that enter with distance and direction, one number for each type or for all."""
    sel_r: Places | Literal[0] = 0
    """Further neighbours of each type that enter with their distance alone."""
    axis_rule: tuple[Annotated[int, Field(ge=0)], ...]
    """Six numbers for each type of the centre: class (0 among those of `sel_a`, 1 of `sel_r`), type and rank by
    distance (from 0) of the atom on the first axis, and the same of the atom that completes the first plane."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.axis_rule or len(self.axis_rule) % _RULE:
            raise ValueError(f"axis_rule has {len(self.axis_rule)} numbers, expected {_RULE} for each type")
        return self

    @property
    def mixed_types(self) -> bool:
        """Each type has a fitting net of its own."""
        return False

    @property
    def exclude_types(self) -> tuple[tuple[int, int], ...]:
        """No pair of types is excluded."""
        return ()

    def with_cutoff(self, cutoff: float) -> LocFrameConfig:
        """The same with another cutoff, in Å; the numbers of neighbours follow the volume."""
        ratio = cutoff / self.rcut
        radial = scaled_places(self.sel_r, ratio) if self.sel_r else 0
        update = {"rcut": cutoff, "sel_a": scaled_places(self.sel_a, ratio), "sel_r": radial}
        return LocFrameConfig.model_validate(self.model_dump() | update)

    def layout(self, n_types: int) -> Layout:
        """Slots of the neighbours.

        Raises
        ------
        ValueError
            If the settings do not fit the number of types.
        """
        radial = (0,) * n_types if self.sel_r == 0 else places(self.sel_r, n_types, "sel_r")
        return Layout(places(self.sel_a, n_types, "sel_a"), radial)

    def axes(self, n_types: int) -> tuple[tuple[int, int], ...]:
        """Slots of the two atoms of the frame, for each type of the centre.

        Raises
        ------
        ValueError
            If a rule names an atom that has no slot, or one atom twice.
        """
        layout = self.layout(n_types)
        if len(self.axis_rule) != _RULE * n_types:
            raise ValueError(f"axis_rule has {len(self.axis_rule)} numbers, expected {_RULE * n_types}")
        found = []
        for t in range(n_types):
            rule = self.axis_rule[_RULE * t : _RULE * (t + 1)]
            slots = []
            for kind, neighbor, rank in (rule[:3], rule[3:]):
                known = kind < 2 and neighbor < n_types and rank < (layout.full, layout.radial)[kind][neighbor]
                if not known:
                    raise ValueError(
                        f"axis_rule of type {t}: class {kind}, type {neighbor}, rank {rank} is no neighbour that "
                        "sel_a (class 0) or sel_r (class 1) keeps"
                    )
                slots.append(layout.slot(kind == 1, neighbor, rank))
            if slots[0] == slots[1]:
                raise ValueError(f"axis_rule of type {t}: both axes are given by the same atom {list(rule[:3])}")
            found.append((slots[0], slots[1]))
        return tuple(found)

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood."""
        layout = self.layout(n_types)
        self.axes(n_types)
        kept = tuple(a + r for a, r in zip(layout.full, layout.radial, strict=True))
        return NeighborSpec(self.rcut, _NO_LIMIT, kept)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """None: each number is scaled by itself, see `dpsim.train.start.component_scales`."""
        return ()

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> LocFrame:
        """Make the module, which has no parameters.

        Raises
        ------
        ConfigError
            If directions are asked for.
        """
        if basis:
            raise ConfigError(
                "descriptor 'loc_frame' gives no directions, which fittings of vectors and tensors need: "
                "use another descriptor"
            )
        from dpsim.descriptors.loc_frame.descriptor import LocFrame

        return LocFrame(self, len(type_map))

    @classmethod
    def tiny(cls, n_types: int = 2) -> LocFrameConfig:
        """Smallest instance that uses every part: for tests."""
        rule = (0, n_types - 1, 0, 0, 0, int(n_types == 1))
        return cls(rcut=4.0, sel_a=(4,) * n_types, sel_r=(20,) * n_types, axis_rule=rule * n_types)
