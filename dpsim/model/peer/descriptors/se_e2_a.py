"""se_e2_a in DeePMD-kit's files (spec classic.md §1)."""

from __future__ import annotations

from dpsim.descriptors.se_e2_a.config import SeE2AConfig
from dpsim.model.peer.descriptors.typed import TypedPeer
from dpsim.model.peer.family import Settings, Tree


class SeE2APeer(TypedPeer[SeE2AConfig]):
    """``se_e2_a``, also called ``se_a``."""

    type = "se_e2_a"
    names = ("se_e2_a", "se_a")
    config = SeE2AConfig
    in_files = "se_e2_a"
    defaults = {
        "neuron": (25, 50, 100), "axis_neuron": 16, "resnet_dt": False, "type_one_side": True, "set_davg_zero": False,
        "activation_function": "tanh", "env_protection": 0.0,
    }  # fmt: skip
    torch_prefix = "sea."
    inert = (r"sea\.compress_(?:info|data)\.\d+",)

    def order(self, config: Settings, n_types: int) -> tuple[int, list[int]]:
        """See `TypedPeer.order`: by neighbour, or by neighbour (slow) and centre."""
        one_side = config["type_one_side"]
        return (1, list(range(n_types))) if one_side else (2, list(range(n_types**2)))

    def extra(self, config: SeE2AConfig) -> Tree:
        """See `TypedPeer.extra`."""
        return {"spin": None}
