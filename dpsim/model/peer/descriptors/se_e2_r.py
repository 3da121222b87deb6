"""se_e2_r in DeePMD-kit's files (spec classic.md §2)."""

from __future__ import annotations

from dpsim.descriptors.se_e2_r.config import SeE2RConfig
from dpsim.model.peer.descriptors.typed import TypedPeer
from dpsim.model.peer.family import Context, Settings, Tree
from dpsim.model.peer.section import InputSection


class SeE2RPeer(TypedPeer[SeE2RConfig]):
    """``se_e2_r``, also called ``se_r``."""

    type = "se_e2_r"
    names = ("se_e2_r", "se_r")
    config = SeE2RConfig
    in_files = "se_r"
    defaults = {
        "neuron": (25, 50, 100), "resnet_dt": False, "set_davg_zero": False, "activation_function": "tanh",
        "env_protection": 0.0,
    }  # fmt: skip
    torch_prefix = ""
    inert = (r"compress_(?:info|data)\.\d+",)

    def order(self, config: Settings, n_types: int) -> tuple[int, list[int]]:
        """See `TypedPeer.order`: by neighbour."""
        return 1, list(range(n_types))

    def extra(self, config: SeE2RConfig) -> Tree:
        """See `TypedPeer.extra`."""
        return {"type_one_side": True, "spin": None}

    def input_extra(self, section: InputSection, context: Context) -> None:
        """See `TypedPeer.input_extra`."""
        if section.take("type_one_side", True) is False:
            context.notes.append(f"{section.where}.type_one_side: false has no effect, there is one form alone")
