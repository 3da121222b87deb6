"""Operators of dpsim that torch does not have, each in a native and in a plain version.

The native versions live in one C++ library that is built on first use; where there is no compiler, and for
tensors that are not on the CPU, the plain versions of `dpsim.ops.reference` compute the same.
"""

from dpsim.ops.allocator import keep_memory
from dpsim.ops.halo import halo_extend, halo_fold
from dpsim.ops.library import load, unavailable_reason

__all__ = ["halo_extend", "halo_fold", "keep_memory", "load", "unavailable_reason"]
