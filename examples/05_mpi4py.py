"""A parallel Python program that drives LAMMPS with its own communicators, and shares evaluations over its ranks.

Run 03_freeze_and_ase.py first, then ``mpiexec -n 2 python 05_mpi4py.py``.
"""

from pathlib import Path

import numpy as np
from ase.build import bulk
from mpi4py import MPI

import dpsim
from dpsim.lammps import start

MODEL = Path(__file__).parent / "output/cu.pt2"
QUIET = ["-screen", "none", "-log", "none"]


def deck(temperature: float, cells: int) -> str:
    """Copper at a temperature."""
    return f"""
        units metal
        atom_modify map array
        lattice fcc 3.615
        region box block 0 {cells} 0 {cells} 0 {cells}
        create_box 1 box
        create_atoms 1 box
        mass 1 63.546
        pair_style dpsim "{MODEL}"
        pair_coeff * * Cu
        velocity all create {temperature} 2718 loop all
        timestep 0.002
        fix 1 all nve
        """


def one_run_on_all_ranks(comm: MPI.Comm) -> None:
    """Every rank holds the atoms of its own part of the box; arrays are views, so the program can change them too."""
    lmp = start(comm=comm, cmdargs=QUIET)
    lmp.commands_string(deck(1200.0, cells=4))
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


def one_run_on_each_part(comm: MPI.Comm) -> None:
    """Ranks fall into as many groups as there are temperatures (or ranks); each group runs a LAMMPS of its own."""
    temperatures = [300.0, 900.0]
    color = comm.rank * min(len(temperatures), comm.size) // comm.size
    part = comm.Split(color, comm.rank)
    lmp = start(comm=part, cmdargs=QUIET)
    lmp.commands_string(deck(temperatures[color], cells=2) + "run 20\n")
    energy = lmp.get_thermo("pe") / lmp.get_natoms()
    lmp.close()
    found = comm.gather((temperatures[color], part.size, energy) if part.rank == 0 else None)
    part.Free()
    for temperature, ranks, energy in sorted(f for f in found or [] if f):
        print(f"{temperature:.0f} K on {ranks} {'rank' if ranks == 1 else 'ranks'}: {energy:.4f} eV/atom")


def many_structures(comm: MPI.Comm) -> None:
    """Each rank evaluates its share of the structures, and all get all results."""
    potential = dpsim.load(MODEL)
    frames = []
    for constant in np.linspace(3.4, 3.9, 21):
        atoms = bulk("Cu", "fcc", a=constant, cubic=True)
        frames.append({"positions": atoms.positions, "types": list(atoms.symbols), "cell": atoms.cell.array})
    energies = [p.energy for p in potential.evaluate_many(frames, comm=comm)]
    if comm.rank == 0:
        best = np.linspace(3.4, 3.9, 21)[int(np.argmin(energies))]
        print(f"{len(energies)} structures on {comm.size} ranks: lowest energy at a = {best:.3f} Å")


def main() -> None:
    comm = MPI.COMM_WORLD
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there yet: run 03_freeze_and_ase.py first")
    one_run_on_all_ranks(comm)
    one_run_on_each_part(comm)
    many_structures(comm)


if __name__ == "__main__":
    main()
