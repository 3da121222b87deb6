"""The fitting net of densities of states in DeePMD-kit's files (spec fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpsim.fittings.dos.config import DOSFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer
from dpsim.model.peer.section import InputSection, Section


class DOSPeer(NetPeer[DOSFittingConfig]):
    """``dos``."""

    type = "dos"
    names = ("dos",)

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(var_name="dos", atom_ener=None)
        config["numb_dos"] = section.take("dim_out", 300, alias=("numb_dos",))

    def write_extra(self, config: DOSFittingConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `NetPeer.write_extra`."""
        return {"var_name": "dos", "dim_out": config.numb_dos, "atom_ener": None}

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`."""
        config["numb_dos"] = section.take("numb_dos", 300)
