"""Settings of se_e3; hyper-parameters keep the names of the input files of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dpsim.descriptors.typed_config import TypedList, TypedSettings, places

if TYPE_CHECKING:
    from dpsim.descriptors.se_e3.descriptor import SeE3


class SeE3Config(TypedSettings):
    """DeepPot-SE of three bodies: networks of the products of the directions to two neighbours."""

    type: Literal["se_e3"] = "se_e3"

    @property
    def needs_pairs(self) -> bool:
        """Networks see pairs of neighbours."""
        return True

    def lists(self, n_types: int) -> tuple[TypedList, ...]:
        """For each unordered pair of types of neighbours the list of both, seen by one network."""
        if n_types == 1 and not self.exclude_types:
            return (TypedList(0, (0, 0), ()),)
        sel, found = places(self.sel, n_types), []
        for b in range(n_types):
            for a in range(b + 1):
                centers = self.visible(n_types, a, b)
                only = tuple((c, t) for c in centers for t in dict.fromkeys((a, b)))
                if sel[a] and sel[b] and only:
                    found.append(TypedList(self.network(a, b), (a, b), only))
        return tuple(found)

    @staticmethod
    def network(a: int, b: int) -> int:
        """Number of the network of neighbours of types ``a <= b``: 00, 01, 11, 02, 12, 22, ..."""
        return b * (b + 1) // 2 + a

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> SeE3:
        """Make the module, with fresh parameters from torch's generator; there are no directions."""
        self.refuse_basis(basis)
        from dpsim.descriptors.se_e3.descriptor import SeE3

        return self.with_tables(SeE3(self, len(type_map)))

    @classmethod
    def tiny(cls, n_types: int = 2) -> SeE3Config:
        """Smallest instance that uses every part: for tests."""
        return cls(rcut=3.5, rcut_smth=1.5, sel=(30,) * n_types, neuron=(3, 6), resnet_dt=True)
