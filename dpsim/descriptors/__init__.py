"""Descriptors: from a neighbourhood to features of each atom.

Every descriptor has a `Config` (no torch needed to read or check it) and a Module that its ``build`` returns.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dpsim.descriptors.dpa1.config import DPA1Config, SeAttenV2Config
from dpsim.descriptors.dpa2.config import DPA2Config
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.descriptors.hybrid.config import HybridConfig
from dpsim.descriptors.loc_frame.config import LocFrameConfig
from dpsim.descriptors.se_e2_a.config import SeE2AConfig
from dpsim.descriptors.se_e2_r.config import SeE2RConfig
from dpsim.descriptors.se_e3.config import SeE3Config
from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig

_Any = (
    DPA3Config
    | DPA1Config
    | SeAttenV2Config
    | DPA2Config
    | SeE3TebdConfig
    | SeE2AConfig
    | SeE2RConfig
    | SeE3Config
    | LocFrameConfig
    | HybridConfig
)


def _typed(value: Any) -> Any:
    return {"type": "dpa3", **value} if isinstance(value, dict) and "type" not in value else value


DescriptorConfig = Annotated[
    Annotated[_Any, Field(discriminator="type")], BeforeValidator(_typed, json_schema_input_type=_Any)
]
"""Union of all descriptors; without a `type` it is DPA-3."""

HybridConfig.model_rebuild(_types_namespace={"DescriptorConfig": DescriptorConfig})

__all__ = [
    "DPA1Config",
    "DPA2Config",
    "DPA3Config",
    "DescriptorConfig",
    "HybridConfig",
    "LocFrameConfig",
    "SeAttenV2Config",
    "SeE2AConfig",
    "SeE2RConfig",
    "SeE3Config",
    "SeE3TebdConfig",
]
