"""Run on one or several ranks: decks in folders, one after the other, each by a LAMMPS of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from dpsim.lammps import start
from dpsim.lammps.session import preload_mpi

preload_mpi()
from mpi4py import MPI  # noqa: E402

comm = MPI.COMM_WORLD
path = Path(sys.argv[1])
jobs = json.loads(path.read_text())
for job in jobs:
    os.chdir(job["folder"])
    lmp = start(comm=comm, cmdargs=["-screen", "none", "-log", "log.lammps"])
    try:
        lmp.commands_string(Path("in.lammps").read_text())
    except Exception as error:
        job["error"] = str(error) or type(error).__name__
    lmp.close()
if comm.Get_rank() == 0:
    path.with_name("done.json").write_text(json.dumps(jobs))
