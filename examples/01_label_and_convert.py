"""Label copper with an EAM potential, and convert the result to a data set.

The "electronic structure" of this example is a classical potential that comes with LAMMPS, so it takes seconds.
Real labels come from the same call with another calculator, for example ``TBLiteConfig()`` (xTB) or ``PySCFConfig()``.
"""

from pathlib import Path

from data_tools.calculators import EAMConfig
from data_tools.convert import convert
from data_tools.label import label
from data_tools.structures import PrototypeConfig, build_structures

OUTPUT = Path(__file__).parent / "output"


def main() -> None:
    # 1. What to label: strained and rattled crystals, and one with a vacancy in every copy. Lengths are in Å.
    declared = [
        PrototypeConfig(prototype="fcc", element="Cu", supercell=(2, 2, 2), rattle=0.06, strain=0.03, count=50),
        PrototypeConfig(prototype="fcc", element="Cu", supercell=(2, 2, 2), rattle=0.02, strain=0.01, count=20),
        PrototypeConfig(prototype="fcc", element="Cu", supercell=(2, 2, 2), rattle=0.03, vacancies=1, count=10),
    ]
    structures = build_structures(declared, seed=1)

    # 2. Energy, forces and stress of each; a run that was killed goes on where it was.
    labelled = label(structures, EAMConfig(potential="Cu_mishin1.eam.alloy"), OUTPUT / "label")
    print(f"labelled {labelled.n_frames} frames, {labelled.n_failed} failed: {labelled.frames}")

    # 3. To deepmd/npy/mixed, divided into parts. The table says what was found, in which unit and under which name.
    report = convert(
        [labelled.frames],
        OUTPUT / "data",
        type_map=["Cu"],
        split={"train": 0.8, "valid": 0.2},
        seed=1,
        overwrite=True,
    )
    print(report.table())


if __name__ == "__main__":  # labelling may start more processes, which import this file
    main()
