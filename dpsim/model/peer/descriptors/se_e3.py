"""se_e3 in DeePMD-kit's files (spec classic.md §3)."""

from __future__ import annotations

import numpy as np

from dpsim.descriptors.se_e3.config import SeE3Config
from dpsim.errors import ModelError
from dpsim.model.peer.descriptors.typed import TypedPeer
from dpsim.model.peer.family import Settings


class SeE3Peer(TypedPeer[SeE3Config]):
    """``se_e3``, also called ``se_at``, ``se_a_3be`` and ``se_t``."""

    type = "se_e3"
    names = ("se_e3", "se_at", "se_a_3be", "se_t")
    config = SeE3Config
    in_files = "se_e3"
    defaults = {
        "neuron": (24, 48, 96), "resnet_dt": False, "set_davg_zero": False, "activation_function": "tanh",
        "env_protection": 0.0,
    }  # fmt: skip
    torch_prefix = "seat."
    inert = (r"seat\.compress_(?:info|data)\.\d+", r"seat\.filter_layers\.networks\.\d+\..+")

    def order(self, config: Settings, n_types: int) -> tuple[int, list[int]]:
        """See `TypedPeer.order`: of the networks of both orders of two types only that of ``a <= b`` is used."""
        pairs = [(min(a, b), max(a, b)) for b in range(n_types) for a in range(n_types)]
        return 2, [SeE3Config.network(a, b) for a, b in pairs]

    def check_statistics(self, where: str, mean: np.ndarray) -> None:
        """See `TypedPeer.check_statistics`: an empty place would have a direction."""
        if np.any(mean[:, :, 1:]):
            raise ModelError(f"{where}.davg: the mean of directions is not zero, which no statistics give")
