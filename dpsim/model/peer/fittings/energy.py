"""The energy fitting net in DeePMD-kit's files (spec common.md §10, fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpsim.fittings.energy.config import EnergyFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer
from dpsim.model.peer.section import InputSection, Section


class EnergyPeer(NetPeer[EnergyFittingConfig]):
    """``ener``."""

    type = "ener"
    names = ("ener",)

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(dim_out=1, var_name="energy")
        config["vacuum_types"] = _vacuum_types(section.take("atom_ener", None), context)

    def write_extra(self, config: EnergyFittingConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `NetPeer.write_extra`."""
        flags = config.vacuum_types
        fixed = None if flags is None else [0.0 if flag else None for flag in flags]
        return {"var_name": "energy", "dim_out": 1, "atom_ener": fixed}

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`."""
        config["vacuum_types"] = _vacuum_types(section.take("atom_ener", None), context)


def _vacuum_types(energies: Any, context: Context) -> list[bool] | None:
    """Types with an entry in ``atom_ener``: its PyTorch backend takes no notice of the numbers."""
    flags = [energy is not None for energy in energies or ()]
    return flags if any(flags) else None
