"""A parallel Python program that drives LAMMPS with its own communicator.

Run 03_freeze_and_ase.py first, then ``mpiexec -n 2 python 05_mpi4py.py``.
"""

from pathlib import Path

import numpy as np
from mpi4py import MPI

from dpsim.lammps import start

MODEL = Path(__file__).parent / "output/cu.pt2"


def main() -> None:
    comm = MPI.COMM_WORLD
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there yet: run 03_freeze_and_ase.py first")

    lmp = start(comm=comm, cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_string(
        f"""
        units metal
        atom_modify map array
        lattice fcc 3.615
        region box block 0 4 0 4 0 4
        create_box 1 box
        create_atoms 1 box
        mass 1 63.546
        pair_style dpsim "{MODEL}"
        pair_coeff * * Cu
        velocity all create 1200 2718 loop all
        timestep 0.002
        fix 1 all nve
        """
    )
    # Every rank holds the atoms of its own part of the box; arrays are views, so the program can change them too.
    for _ in range(5):
        lmp.command("run 10 post no")
        n_own = lmp.extract_setting("nlocal")
        speeds = np.linalg.norm(lmp.numpy.extract_atom("v")[:n_own], axis=1)
        fastest = comm.allreduce(float(speeds.max(initial=0.0)), MPI.MAX)  # Å/ps, over all ranks
        temperature, total = lmp.get_thermo("temp"), lmp.get_thermo("etotal")  # collective: every rank asks
        atoms = comm.gather(n_own)
        if comm.rank == 0:
            print(f"atoms on the ranks {atoms}: {temperature:5.0f} K, {total:.4f} eV, fastest atom {fastest:.1f} Å/ps")
    lmp.close()


if __name__ == "__main__":
    main()
