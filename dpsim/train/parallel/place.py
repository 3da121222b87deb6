"""Which of several processes this is, and what started them. No torch here: the command line asks first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Launcher = Literal["auto", "torchrun", "mpi", "none"]

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` tells its processes."""
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""What MPI launchers, and ``srun``, tell the number of their processes by."""


class Place(NamedTuple):
    """Which of the processes this is."""

    rank: int
    number: int
    local_rank: int
    local_number: int


def recognised(environment: Mapping[str, str]) -> Launcher:
    """What started this process, by its environment; ``none`` if there is no other process."""
    if all(name in environment for name in TORCHRUN):
        return "torchrun"
    several = any(environment.get(name, "1") != "1" for name in _MPI_SIZES)
    return "mpi" if several else "none"
