"""What the settings of all descriptors have in common. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dpsim.config import Config
from dpsim.descriptors.table_grid import TableGrid

if TYPE_CHECKING:
    from torch.nn import Module

    ModuleT = TypeVar("ModuleT", bound=Module)


class DescriptorSettings(Config):
    """From the neighbourhood of an atom to its features; by default of one list for all types, without messages."""

    @property
    def mixed_types(self) -> bool:
        """Whether the features know the element of the centre, so that one fitting net serves all types."""
        return True

    @property
    def message_passing_layers(self) -> int:
        """Layers whose input crosses a rank boundary."""
        return 0

    @property
    def takes_charge_spin(self) -> bool:
        """Whether total charge and spin multiplicity of the frame enter."""
        return False

    @property
    def default_charge_spin(self) -> tuple[int, int] | None:
        """Charge and multiplicity where none are given."""
        return None


class CompressibleSettings(DescriptorSettings):
    """Those of descriptors whose networks of one number tables may stand in for."""

    compressed: tuple[TableGrid, ...] = ()
    """Grids of the tables of a compressed model, as `dpsim compress` makes them; empty: networks."""

    def with_tables(self, module: ModuleT) -> ModuleT:
        """The module with (empty) tables, if it is compressed."""
        if not self.compressed:
            return module
        from dpsim.descriptors.tabulated import with_tables

        return with_tables(module, self.compressed)
