"""Settings of se_e2_r; hyper-parameters keep the names of the input files of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dpsim.descriptors.typed_config import TypedList, TypedSettings

if TYPE_CHECKING:
    from dpsim.descriptors.se_e2_r.descriptor import SeE2R


class SeE2RConfig(TypedSettings):
    """DeepPot-SE of distances alone: the mean of networks over the neighbours."""

    type: Literal["se_e2_r"] = "se_e2_r"

    def lists(self, n_types: int) -> tuple[TypedList, ...]:
        """One list for each network."""
        return self.by_neighbor(n_types)

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> SeE2R:
        """Make the module, with fresh parameters from torch's generator; there are no directions."""
        self.refuse_basis(basis)
        from dpsim.descriptors.se_e2_r.descriptor import SeE2R

        return self.with_tables(SeE2R(self, len(type_map)))

    @classmethod
    def tiny(cls, n_types: int = 2) -> SeE2RConfig:
        """Smallest instance that uses every part: for tests."""
        return cls(rcut=4.0, rcut_smth=2.0, sel=(40,) * n_types, neuron=(3, 6), resnet_dt=True)
