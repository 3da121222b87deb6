"""Descriptors: from a neighbourhood to features of each atom.

Every descriptor has a `Config` (no torch needed to read or check it) and a Module that its ``build`` returns.
"""

from dpsim.descriptors.dpa3.config import DPA3Config

DescriptorConfig = DPA3Config
"""Union of all descriptors; one member today."""

__all__ = ["DPA3Config", "DescriptorConfig"]
