"""The polarizability fitting net in DeePMD-kit's files (spec fittings.md §2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpsim.fittings.polarizability.config import PolarizabilityFittingConfig
from dpsim.model.peer.family import Arrays, Context, Settings, Tree
from dpsim.model.peer.fittings.fitting import NetPeer, refuse_selected_types
from dpsim.model.peer.section import InputSection, Section


class PolarizabilityPeer(NetPeer[PolarizabilityFittingConfig]):
    """``polar``; its array ``constant_matrix`` is written by the peer and has no effect."""

    type = "polar"
    names = ("polar",)
    versions = (1, 2, 3, 4, 5)
    own_bias = True

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """See `NetPeer.read_extra`."""
        section.require(var_name="polar")
        section.ignore("embedding_width")
        section.ignore_arrays("constant_matrix")
        config["fit_diag"] = section.take("fit_diag", True)
        config["shift_diag"] = section.take("shift_diag", True)
        scale = section.array("scale", None)
        config["scale"] = 1.0 if scale is None else tuple(np.reshape(scale, -1).tolist())

    def write_extra(
        self, config: PolarizabilityFittingConfig, state: Mapping[str, np.ndarray], context: Context
    ) -> Tree:
        """See `NetPeer.write_extra`."""
        arrays = {
            "scale": np.array(config.scales(context.n_types)).reshape(-1, 1),
            "constant_matrix": np.zeros(context.n_types),
        }
        return {
            "var_name": "polar",
            "embedding_width": context.dim_basis,
            "fit_diag": config.fit_diag,
            "shift_diag": config.shift_diag,
            "@variables": arrays,
        }

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """See `NetPeer.input_extra`."""
        refuse_selected_types(section, "pol_type", context)
        config["fit_diag"] = section.take("fit_diag", True)
        config["shift_diag"] = section.take("shift_diag", True)
        scale = section.take("scale", None)
        config["scale"] = 1.0 if scale is None else scale
