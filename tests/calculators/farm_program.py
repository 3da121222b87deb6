"""Run on two ranks: many structures over all ranks and over one half, and an error on one rank alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dpsim.lammps.session import preload_mpi

preload_mpi()
from mpi4py import MPI  # noqa: E402

import dpsim  # noqa: E402
from dpsim.calculators import farm  # noqa: E402
from dpsim.errors import DataError  # noqa: E402

comm = MPI.COMM_WORLD
potential = dpsim.load(sys.argv[1])
rng = np.random.default_rng(5)
frames = [
    {"positions": rng.uniform(0, 6, (n, 3)), "types": rng.integers(0, 2, n), "cell": np.eye(3) * 6.5}
    for n in (3, 9, 4, 1, 7, 5, 6)
]
alone = potential.evaluate_many(frames)
together = potential.evaluate_many(iter(frames), comm=comm)
for one, two in zip(alone, together, strict=True):
    np.testing.assert_allclose(two.energy, one.energy, rtol=1e-12)
    np.testing.assert_allclose(two.forces, one.forces, rtol=0, atol=1e-12)
assert potential.evaluate_many([], comm=comm) == []

mine = comm.Split(comm.Get_rank())
some = potential.evaluate_many(frames[: 1 + comm.Get_rank()], comm=mine)
assert len(some) == 1 + comm.Get_rank()
np.testing.assert_allclose(some[0].energy, alone[0].energy, rtol=1e-12)

broken = [*frames[:5], {**frames[5], "types": [0]}, frames[6]]
for case, words in ((broken, "frame 5"), (frames[: 4 + comm.Get_rank()], r"\[4, 5\]")):
    with pytest.raises(DataError, match=words):
        potential.evaluate_many(case, comm=comm)
done = comm.gather(sum(len(part) for part in farm.shares([3, 9, 4], 2)))
if comm.Get_rank() == 0:
    print("agreed on", len(done), "ranks", flush=True)
