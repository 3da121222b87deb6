"""What the settings of all descriptors have in common. No torch here."""

from __future__ import annotations

from dpsim.config import Config


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
