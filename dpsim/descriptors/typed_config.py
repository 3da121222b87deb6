"""Settings that descriptors with networks for each type of neighbour share (spec classic.md §0). No torch here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, model_validator

from dpsim.config import Distance, Length
from dpsim.descriptors.blocks import EnvironmentBlock, scaled_sel
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.errors import ConfigError
from dpsim.nn.activation_name import ActivationName
from dpsim.physics.neighbors import NeighborSpec

Width = Annotated[int, Field(gt=0)]
Places = Annotated[
    Annotated[Width, Tag("number")] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number"),
]
"""Neighbours kept of each type: one number for all types, or one for each."""


def places(sel: int | tuple[int, ...], n_types: int, name: str = "sel") -> tuple[int, ...]:
    """Neighbours kept of each type.

    Raises
    ------
    ValueError
        If there is not one number for each type.
    """
    if isinstance(sel, int):
        return (sel,) * n_types
    if len(sel) != n_types:
        raise ValueError(
            f"{name} has {len(sel)} numbers, expected {n_types}: one for each type of neighbour, "
            "or a single number for all of them"
        )
    return sel


def scaled_places(sel: int | tuple[int, ...], ratio: float) -> int | tuple[int, ...]:
    """The same numbers where the cutoff is `ratio` times as long, at the same density."""
    return scaled_sel(sel, ratio) if isinstance(sel, int) else tuple(scaled_sel(n, ratio) for n in sel)


class TypedList(NamedTuple):
    """A list of the neighbours that one network sees."""

    network: int
    """Number of the network."""
    types: tuple[int, ...]
    """Types of the neighbours."""
    only: tuple[tuple[int, int], ...]
    """Types (centre, neighbour) of its edges; empty: all edges."""


class TypedSettings(CompressibleSettings):
    """What these descriptors share."""

    gives_basis: ClassVar[bool] = False
    """Whether there are directions for fittings of vectors and tensors."""

    rcut: Length = 6.0
    """Cutoff radius."""
    rcut_smth: Distance = 0.5
    """Distance at which the switch begins to fall from one."""
    sel: Places
    """Nearest neighbours kept of each type, one number for each type or one for all; the sum also normalises."""
    neuron: Annotated[tuple[Width, ...], Field(min_length=1)] = (10, 20, 40)
    """Widths of the embedding networks."""
    activation_function: ActivationName = "tanh"
    """Activation of the embedding networks."""
    resnet_dt: bool = False
    """Learned scale on the residual updates."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other. An excluded neighbour holds a place: unless `set_davg_zero`
    is true the energy jumps a little where it crosses the cutoff."""
    env_protection: Annotated[float, Field(ge=0)] = 0.0
    """Added to distances before division, in Å."""
    set_davg_zero: bool = False
    """Keep the mean of the environment at zero instead of taking it from the data."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.rcut_smth < self.rcut:
            raise ValueError(f"rcut_smth ({self.rcut_smth} Å) must be smaller than rcut ({self.rcut} Å)")
        if not isinstance(self.sel, int) and not any(self.sel):
            raise ValueError("sel keeps no neighbour of any type: at least one number must be above 0")
        return self

    @property
    def mixed_types(self) -> bool:
        """Each type has a fitting net of its own."""
        return False

    @property
    def counts_distant_neighbors(self) -> bool:
        """Whether a neighbour beyond the cutoff that has a place in the list is not the same as an empty place."""
        return bool(self.exclude_types)

    def with_cutoff(self, cutoff: float) -> Self:
        """The same with another cutoff, in Å.

        The switch begins at the same fraction of it. The nominal numbers of neighbours grow and shrink with the
        volume, so that no neighbour is lost in matter of the density that the settings were made for.
        """
        ratio = cutoff / self.rcut
        update: dict[str, Any] = {
            "rcut": cutoff,
            "rcut_smth": self.rcut_smth * ratio,
            "sel": scaled_places(self.sel, ratio),
        }
        return type(self).model_validate(self.model_dump() | update)

    def lists(self, n_types: int) -> tuple[TypedList, ...]:
        """Lists of neighbours that enter networks, without excluded pairs."""
        raise NotImplementedError

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood.

        Excluded pairs stand in the outer list, because their places are not the same as empty ones, and in none of
        the inner lists. There is no inner list where it would be the outer one.

        Raises
        ------
        ValueError
            If `sel` does not fit the number of types, or no pair of types is left.
        """
        sel = places(self.sel, n_types)
        lists = self.lists(n_types)
        if not lists:
            raise ValueError("exclude_types and sel leave no pair of types that see each other")
        whole = len(lists) == 1 and not lists[0].only
        inner = () if whole else tuple(self._inner(one, sum(sel)) for one in lists)
        return NeighborSpec(self.rcut, sum(sel), sel, pairs=whole and self.needs_pairs, inner=inner)

    @property
    def needs_pairs(self) -> bool:
        """Whether networks see pairs of neighbours."""
        return False

    def _inner(self, one: TypedList, sel: int) -> NeighborSpec:
        return NeighborSpec(self.rcut, sel, pairs=self.needs_pairs, only=one.only)

    def visible(self, n_types: int, *neighbors: int) -> tuple[int, ...]:
        """Types of centres that see all the given types of neighbours."""
        hidden = {pair for a, b in self.exclude_types for pair in ((a, b), (b, a))}
        return tuple(a for a in range(n_types) if not any((a, t) in hidden for t in neighbors))

    def by_neighbor(self, n_types: int) -> tuple[TypedList, ...]:
        """One list for each type of neighbour that has places, with the network of the same number."""
        if n_types == 1 and not self.exclude_types:
            return (TypedList(0, (0,), ()),)
        found = []
        for t, count in enumerate(places(self.sel, n_types)):
            only = tuple((a, t) for a in self.visible(n_types, t))
            if count and only:
                found.append(TypedList(t, (t,), only))
        return tuple(found)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data."""
        sel, each = (self.sel, True) if isinstance(self.sel, int) else (sum(self.sel), False)
        return (
            EnvironmentBlock(
                "environment", (), self.rcut, self.rcut_smth, sel, self.env_protection,
                zero_mean=self.set_davg_zero, exclude_types=self.exclude_types, sel_of_each_type=each,
            ),
        )  # fmt: skip

    def refuse_basis(self, basis: bool) -> None:
        """Refuse to be built for fittings of vectors and tensors where there are no directions.

        Raises
        ------
        ConfigError
            If directions are asked for.
        """
        if basis and not self.gives_basis:
            name = type(self).model_fields["type"].default
            raise ConfigError(
                f"descriptor {name!r} gives no directions, which fittings of vectors and tensors need: "
                "use another descriptor, or a hybrid with one that does"
            )
