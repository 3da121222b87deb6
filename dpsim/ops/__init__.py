"""Operators of dpsim that torch does not have, each in a native and in a plain version.

The native versions live in one C++ library that is built on first use; where there is no compiler, and for
tensors that are not on the CPU, the plain versions of `dpsim.ops.reference` compute the same.
"""

from dpsim.ops.allocator import keep_memory
from dpsim.ops.convolution import edge_convolution
from dpsim.ops.embedding import Network, embedding_sum
from dpsim.ops.environment import EXPONENTIAL, POLYNOMIAL, Fade, environment
from dpsim.ops.gather_act_reduce import ACTIVATIONS, gather_act_reduce
from dpsim.ops.halo import halo_extend, halo_fold
from dpsim.ops.library import any_order, is_any_order, load, unavailable_reason
from dpsim.ops.message import message
from dpsim.ops.neighbor_outer import neighbor_outer_sum
from dpsim.ops.outer import edge_outer_dot, edge_outer_mix, edge_outer_sum
from dpsim.ops.pairs import pair_dot, pair_mix
from dpsim.ops.rows import gather_rows, scatter_rows, segment_expand, segment_max, segment_sum
from dpsim.ops.tabulate import tabulate, tabulate_sum
from dpsim.ops.typed import typed_matmul, typed_outer

__all__ = [
    "ACTIVATIONS",
    "EXPONENTIAL",
    "POLYNOMIAL",
    "Fade",
    "Network",
    "any_order",
    "edge_convolution",
    "edge_outer_dot",
    "edge_outer_mix",
    "edge_outer_sum",
    "embedding_sum",
    "environment",
    "gather_act_reduce",
    "gather_rows",
    "halo_extend",
    "halo_fold",
    "is_any_order",
    "keep_memory",
    "load",
    "message",
    "neighbor_outer_sum",
    "pair_dot",
    "pair_mix",
    "scatter_rows",
    "segment_expand",
    "segment_max",
    "segment_sum",
    "tabulate",
    "tabulate_sum",
    "typed_matmul",
    "typed_outer",
    "unavailable_reason",
]
