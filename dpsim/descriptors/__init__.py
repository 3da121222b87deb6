"""Descriptors: from a neighbourhood to features of each atom.

Every descriptor has a `Config` (no torch needed to read or check it) and a Module that its ``build`` returns.
"""

from typing import Annotated

from pydantic import Field

from dpsim.descriptors.dpa2.config import DPA2Config
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig

DescriptorConfig = Annotated[
    DPA3Config | DPA2Config | SeE3TebdConfig,
    Field(discriminator="type"),
]
"""Union of all descriptors."""

__all__ = ["DPA2Config", "DPA3Config", "DescriptorConfig", "SeE3TebdConfig"]
