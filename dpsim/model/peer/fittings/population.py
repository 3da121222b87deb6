"""The fitting net of spin populations in DeePMD-kit's files (spec fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpsim.fittings.population.config import PopulationFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer
from dpsim.model.peer.section import InputSection, Section


class PopulationPeer(NetPeer[PopulationFittingConfig]):
    """``population``."""

    type = "population"
    names = ("population",)
    own_bias = True
    default_neuron = (128, 128, 128)

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(var_name="population", dim_out=2, atom_ener=None)

    def write_extra(self, config: PopulationFittingConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `NetPeer.write_extra`."""
        return {"var_name": "population", "dim_out": 2, "atom_ener": None}

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`: this kind has no keys of its own."""
