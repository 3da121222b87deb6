"""Phonons of copper: displacements from phonopy, forces from the model through DPCalculator.

Run 02_train.py first.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from dpsim import DPCalculator

MODEL = Path(__file__).parent / "output/train/best.safetensors"
A = 3.615  # Å
POINTS = {"Γ": (0, 0, 0), "X": (0.5, 0, 0.5), "L": (0.5, 0.5, 0.5), "K": (0.375, 0.375, 0.75)}
"""In units of the reciprocal vectors of the primitive cell."""


def main() -> None:
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there yet: run 02_train.py first")

    unit = bulk("Cu", a=A, cubic=True)
    phonon = Phonopy(
        PhonopyAtoms(symbols=unit.get_chemical_symbols(), cell=unit.cell, scaled_positions=unit.get_scaled_positions()),
        supercell_matrix=np.diag([3, 3, 3]),
        primitive_matrix="F",
    )
    phonon.generate_displacements(distance=0.02)

    # One displacement is enough for a crystal of this symmetry.
    calculator = DPCalculator(MODEL, dtype="float64")  # forces of small displacements are small differences
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()

    print("frequencies in THz (experiment: X 5.1, 7.2; L 3.4, 7.4)")
    found = phonon.run_qpoints(list(POINTS.values())).frequencies
    for name, values in zip(POINTS, found, strict=True):
        print(f"  {name}  " + "  ".join(f"{value:5.2f}" for value in values))
    phonon.save(MODEL.parents[1] / "phonopy_params.yaml")


if __name__ == "__main__":
    main()
