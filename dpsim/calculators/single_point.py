"""One evaluation by LAMMPS through ``pair_style dpsim``, read back in full precision."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dpsim.calculators.evaluate import Prediction
from dpsim.calculators.lammps_data import elements_of, lammps_box, write_data
from dpsim.errors import StageError

if TYPE_CHECKING:
    from ase import Atoms

LAMMPS_BAR_PER_EV_A3 = 1.6021765e6
"""LAMMPS's own ``nktv2p`` in ``units metal``; the CODATA value differs by 8e-8."""
_TIMEOUT = 300.0
FloatArray = npt.NDArray[np.float64]


def lammps_single_point(
    model: Path, atoms: Atoms, type_map: tuple[str, ...], ranks: int = 1, spins: FloatArray | None = None
) -> Prediction:
    """Energy, forces and (periodic cells) virial of a structure by LAMMPS.

    Parameters
    ----------
    model
        A ``.pt2`` file.
    atoms
        Periodic in any subset of directions.
    type_map
        Elements the model knows.
    ranks
        MPI ranks.
    spins
        (n_atoms, 3) μB, for spin models.

    Raises
    ------
    StageError
        If LAMMPS fails; the sentence quotes its own error.
    """
    from dpsim.lammps.launcher import lammps_command

    box = lammps_box(atoms)
    elements = elements_of(atoms, type_map)
    with tempfile.TemporaryDirectory(prefix="dpsim-lammps-") as name:
        folder = Path(name)
        write_data(folder / "start.data", atoms, elements, box, tilt=False, velocities=False, spins=spins)
        deck = _deck(model.resolve(), elements, box.boundary, "atomic" if spins is None else "spin")
        (folder / "in.lammps").write_text(deck)
        argv, env = lammps_command(ranks, folder / "in.lammps")
        done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if done.returncode != 0 or not (folder / "forces.dump").is_file():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no message"]
            raise StageError(f"LAMMPS could not evaluate {model.name}: {lines[0].strip()}")
        forces = np.atleast_2d(np.loadtxt(folder / "forces.dump", skiprows=9))
        row = np.loadtxt(folder / "thermo.txt")
    volume = atoms.get_volume() if atoms.pbc.all() else None
    return Prediction(
        energy=float(row[0]),
        forces=box.from_lammps(forces[:, 1:4]),
        virial=None if volume is None else _virial(row[1:], box.rotation),
    )


def _virial(stress: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    xx, yy, zz, xy, xz, yz, yx, zx, zy = -stress / LAMMPS_BAR_PER_EV_A3
    tensor = np.array([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]]).T  # LAMMPS names the distance first
    return rotation.T @ tensor @ rotation


def _deck(model: Path, elements: tuple[str, ...], boundary: str, style: str) -> str:
    # the pressure has the upper triangle alone, and the virial of a spin model is not symmetric
    terms = ["pe", *(f"c_stress[{i}]" for i in range(1, 10))]
    return "\n".join(
        [
            "units metal",
            f"atom_style {style}",
            f"boundary {boundary}",
            "box tilt large",
            "read_data start.data",
            f'pair_style dpsim "{model}"',
            f"pair_coeff * * {' '.join(elements)}",
            "compute atomic all centroid/stress/atom NULL virial",
            f"compute stress all reduce sum {' '.join(f'c_atomic[{i}]' for i in range(1, 10))}",
            f"thermo_style custom {' '.join(terms)}",
            *(f"variable v{i} equal {term}" for i, term in enumerate(terms)),
            "run 0",
            "write_dump all custom forces.dump id fx fy fz modify sort id format float %.17g",
            'print "' + " ".join(f"$(v_v{i}:%.17g)" for i in range(len(terms))) + '" file thermo.txt screen no',
            "",
        ]
    )
