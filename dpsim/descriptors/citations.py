"""What a paper that uses a model should cite, by the type of its descriptor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_SE: Final = "DeepPot-SE: L. Zhang et al., Adv. Neural Inf. Process. Syst. 31 (2018), arXiv:1805.09003"
_DPA1: Final = "DPA-1: D. Zhang et al., npj Comput. Mater. 10, 94 (2024), arXiv:2208.08236"
CITATIONS: Final[Mapping[str, str]] = {
    "loc_frame": "Deep Potential: L. Zhang et al., Phys. Rev. Lett. 120, 143001 (2018), arXiv:1707.09571",
    "se_e2_a": _SE,
    "se_e2_r": _SE,
    "se_e3": "DeepPot-SE with three bodies: X. Wang et al., Nucl. Fusion 62, 126013 (2022)",
    "dpa1": _DPA1,
    "se_atten": _DPA1,
    "se_atten_v2": _DPA1,
    "dpa2": "DPA-2: D. Zhang et al., npj Comput. Mater. 10, 293 (2024), arXiv:2312.15492",
    "dpa3": "DPA-3: D. Zhang et al., arXiv:2506.01686 (2025)",
}


def citations_of(settings: Any) -> Iterator[str]:
    """Yield the references of all descriptors in the settings of a model, however deep they stand."""
    if isinstance(settings, Mapping):
        kind = settings.get("type")
        if isinstance(kind, str) and kind in CITATIONS:
            yield CITATIONS[kind]
        for value in settings.values():
            yield from citations_of(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from citations_of(value)
