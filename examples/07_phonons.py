"""Phonons of copper: displacements from phonopy, forces from the model; the stage `phonon` does the same.

Run 02_train.py first.
"""

from pathlib import Path

from ase.build import bulk

from dpsim.calculators.statics.phonon_config import PhononSettings
from dpsim.calculators.statics.phonon_run import points_of, write_phonons
from dpsim.calculators.statics.phonons import phonons
from dpsim.calculators.statics.source import model_source

MODEL = Path(__file__).parent / "output/train/best.safetensors"


def main() -> None:
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there yet: run 02_train.py first")

    # Float64 by itself: forces of small displacements are small differences.
    settings = PhononSettings(supercell=(3, 3, 3), displacement=0.02, mesh=50.0)
    found = phonons(bulk("Cu", a=3.615, cubic=True), model_source(MODEL), settings)

    print(f"lattice constant {found.atoms.cell.lengths()[0]:.3f} Å")
    print("frequencies in THz (experiment: X 5.1, 7.2; L 3.4, 7.4)")
    for name, values in points_of(found.bands).items():
        print(f"  {name}  " + "  ".join(f"{value:5.2f}" for value in values))
    print(found.imaginary.sentence)
    write_phonons(found, MODEL.parents[1] / "phonons")


if __name__ == "__main__":
    main()
