"""Freeze a model, then use it in ASE: relaxation, stress, a little dynamics, and two models that disagree.

Run 02_train.py first (and 02_train.yaml, for the second model of the committee).
"""

from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from dpsim import DPCalculator
from dpsim.calculators.freeze import freeze

OUTPUT = Path(__file__).parent / "output"
MODELS = [OUTPUT / "train/best.safetensors", OUTPUT / "train-yaml/best.safetensors"]


def main() -> None:
    for model in MODELS:
        if not model.is_file():
            raise SystemExit(f"{model} is not there yet: run 02_train.py and `dpsim train 02_train.yaml` first")

    # 1. Compile the model for ASE and LAMMPS. It is handed out only if PyTorch, the frozen file, ASE and LAMMPS give
    #    the same numbers, and forces and stress are the derivatives of the energy. (`dpsim freeze` does the same.)
    card = freeze(MODELS[0], OUTPUT / "cu.pt2")
    for name, check in card["checks"].items():
        print(f"  {name}: {check['value']:.1e} {check['unit']}")

    # 2. Relax cell and positions. Any model file will do for DPCalculator, frozen or not.
    crystal = bulk("Cu", cubic=True).repeat(2)
    crystal.calc = DPCalculator(OUTPUT / "cu.pt2")
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=0.01, steps=50)
    a = crystal.get_volume() ** (1 / 3) / 2
    pressure = -crystal.get_stress()[:3].mean() / units.GPa
    print(f"lattice constant {a:.3f} Å (the EAM potential has 3.615 Å), pressure {pressure:.2f} GPa")

    # 3. A little dynamics at constant energy.
    spread = np.sqrt(units.kB * 1200 * crystal.get_masses())  # 1200 K, half of which goes into the vibrations
    crystal.set_momenta(np.random.default_rng(1).normal(size=(len(crystal), 3)) * spread[:, None])
    dynamics = VelocityVerlet(crystal, timestep=2 * units.fs)
    start = crystal.get_total_energy()
    dynamics.run(100)
    drift = (crystal.get_total_energy() - start) / len(crystal)
    print(f"after 0.2 ps: {crystal.get_temperature():.0f} K, total energy changed by {1e6 * drift:.0f} µeV/atom")

    # 4. A committee: the first model drives, all are asked. Where they disagree, more labels are needed.
    crystal.calc = DPCalculator(MODELS)
    for amplitude in (0.05, 0.3):
        atoms = crystal.copy()
        atoms.calc = crystal.calc
        atoms.rattle(amplitude, seed=1)
        atoms.get_forces()
        disagreement = np.linalg.norm(atoms.calc.results["forces_comm"].std(axis=0), axis=1).max()
        print(f"rattled by {amplitude} Å: the models disagree by up to {disagreement:.3f} eV/Å")


if __name__ == "__main__":
    main()
