"""The dipole fitting net in DeePMD-kit's files (spec fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpsim.fittings.dipole.config import DipoleFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer, refuse_selected_types
from dpsim.model.peer.section import InputSection, Section


class DipolePeer(NetPeer[DipoleFittingConfig]):
    """``dipole``."""

    type = "dipole"
    names = ("dipole",)
    own_bias = True

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(var_name="dipole")
        section.ignore("embedding_width", "r_differentiable", "c_differentiable")

    def write_extra(self, config: DipoleFittingConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `NetPeer.write_extra`."""
        return {
            "var_name": "dipole",
            "embedding_width": context.dim_basis,
            "r_differentiable": True,
            "c_differentiable": True,
        }

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`."""
        refuse_selected_types(section, "dipole_type", context)
