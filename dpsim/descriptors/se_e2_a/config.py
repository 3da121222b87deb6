"""Settings of se_e2_a; hyper-parameters keep the names of the input files of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from dpsim.descriptors.typed_config import TypedList, TypedSettings, Width, places

if TYPE_CHECKING:
    from dpsim.descriptors.se_e2_a.descriptor import SeE2A


class SeE2AConfig(TypedSettings):
    """DeepPot-SE: directions to the neighbours, weighted by networks of the distance (arXiv:1805.09003)."""

    gives_basis: ClassVar[bool] = True

    type: Literal["se_e2_a"] = "se_e2_a"
    axis_neuron: Width = 4
    """Columns used on one side of the symmetrised product."""
    type_one_side: bool = False
    """One network for each type of neighbour; otherwise for each pair of types of centre and neighbour."""

    @model_validator(mode="after")
    def _check_axis(self) -> Self:
        if self.axis_neuron > self.neuron[-1]:
            raise ValueError(f"axis_neuron ({self.axis_neuron}) must not exceed the last of neuron ({self.neuron[-1]})")
        return self

    def lists(self, n_types: int) -> tuple[TypedList, ...]:
        """One list for each network."""
        if self.type_one_side or n_types == 1:
            return self.by_neighbor(n_types)
        return tuple(
            TypedList(t * n_types + a, (t,), ((a, t),))
            for t, count in enumerate(places(self.sel, n_types))
            for a in self.visible(n_types, t)
            if count
        )

    def network(self, n_types: int, center: int, neighbor: int) -> int:
        """Number of the network of a pair of types."""
        return neighbor if self.type_one_side else neighbor * n_types + center

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> SeE2A:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.descriptors.se_e2_a.descriptor import SeE2A

        return self.with_tables(SeE2A(self, len(type_map), basis=basis))

    @classmethod
    def tiny(cls, n_types: int = 2) -> SeE2AConfig:
        """Smallest instance that uses every part: for tests."""
        return cls(rcut=4.0, rcut_smth=2.0, sel=(40,) * n_types, neuron=(3, 6), axis_neuron=2, resnet_dt=True)
