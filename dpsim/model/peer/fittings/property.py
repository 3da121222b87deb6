"""The property fitting net in DeePMD-kit's files (spec fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpsim.fittings.property.config import PropertyFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer
from dpsim.model.peer.section import InputSection, Section


class PropertyPeer(NetPeer[PropertyFittingConfig]):
    """``property``."""

    type = "property"
    names = ("property",)
    versions = (1, 2, 3, 4, 5, 6)
    own_bias = True

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(atom_ener=None)
        config["property_name"] = section.take("var_name", alias=("property_name",))
        config["task_dim"] = section.take("task_dim")
        section.require(dim_out=config["task_dim"])
        config["intensive"] = section.take("intensive", False)
        config["distinguish_types"] = section.take("distinguish_types", False)  # files older than the option

    def write_extra(self, config: PropertyFittingConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `NetPeer.write_extra`."""
        return {
            "var_name": config.property_name,
            "dim_out": config.task_dim,
            "atom_ener": None,
            "task_dim": config.task_dim,
            "intensive": config.intensive,
            "distinguish_types": config.distinguish_types,
        }

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`."""
        config["property_name"] = section.take("property_name")
        config["task_dim"] = section.take("task_dim", 1)
        config["intensive"] = section.take("intensive", False)
        config["distinguish_types"] = section.take("distinguish_types", True)
