"""One evaluation by LAMMPS, through ``pair_style dpsim`` or ``compute dpsim/tensor/atom``, in full precision."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dpsim.calculators.engines import ModelFacts
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
    model: Path,
    atoms: Atoms,
    type_map: tuple[str, ...],
    ranks: int = 1,
    spins: FloatArray | None = None,
    words: str = "",
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
    words
        Keywords behind the model's file, as ``fparam 0.3``.

    Raises
    ------
    StageError
        If LAMMPS fails; the sentence quotes its own error.
    """
    box = lammps_box(atoms)
    elements = elements_of(atoms, type_map)
    style = "atomic" if spins is None else "spin"
    lines = [
        f'pair_style dpsim "{model.resolve()}" {words}'.rstrip(),
        f"pair_coeff * * {' '.join(elements)}",
        *_MEASURE,
        "write_dump all custom atoms.dump id fx fy fz modify sort id format float %.17g",
        'print "' + " ".join(f"$(v_v{i}:%.17g)" for i in range(10)) + '" file thermo.txt screen no',
    ]
    with tempfile.TemporaryDirectory(prefix="dpsim-lammps-") as name:
        folder = Path(name)
        write_data(folder / "start.data", atoms, elements, box, tilt=False, velocities=False, spins=spins)
        forces = _run(folder, model.name, _head(style, box.boundary) + lines, ranks)
        row = np.loadtxt(folder / "thermo.txt")
    volume = atoms.get_volume() if atoms.pbc.all() else None
    return Prediction(
        energy=float(row[0]),
        forces=box.from_lammps(forces),
        virial=None if volume is None else _virial(row[1:], box.rotation),
    )


def _virial(stress: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    xx, yy, zz, xy, xz, yz, yx, zx, zy = -stress / LAMMPS_BAR_PER_EV_A3
    tensor = np.array([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]]).T  # LAMMPS names the distance first
    return rotation.T @ tensor @ rotation


def lammps_atomic_values(model: Path, atoms: Atoms, facts: ModelFacts, ranks: int = 1, words: str = "") -> FloatArray:
    """What a model of something else than energies says of each atom, by ``compute dpsim/tensor/atom``.

    Parameters
    ----------
    facts
        Of the model.

    Returns
    -------
    array
        (n_atoms, ...) of the model's shape, in the frame of the user. Other arguments and errors as of
        `lammps_single_point`.
    """
    box = lammps_box(atoms)
    elements = elements_of(atoms, facts.type_map)
    lines = [
        f"pair_style zero {facts.neighbors.cutoff:.17g}",
        "pair_coeff * *",
        f'compute found all dpsim/tensor/atom "{model.resolve()}" {" ".join(elements)} {words}'.rstrip(),
        "dump found all custom 1 atoms.dump id c_found[*]",
        "dump_modify found sort id format float %.17g",
        "run 0",
    ]
    with tempfile.TemporaryDirectory(prefix="dpsim-lammps-") as name:
        folder = Path(name)
        write_data(folder / "start.data", atoms, elements, box, tilt=False, velocities=False)
        found = _run(folder, model.name, _head("atomic", box.boundary) + lines, ranks)
    values: FloatArray = found.reshape(-1, *facts.output_shape)
    if facts.output == "dipole":
        return box.from_lammps(values)
    return box.rotation.T @ values @ box.rotation if facts.output == "polarizability" else values


_TERMS = ["pe", *(f"c_stress[{i}]" for i in range(1, 10))]
# the pressure has the upper triangle alone, and the virial of a spin model is not symmetric
_MEASURE = [
    "compute atomic all centroid/stress/atom NULL virial",
    f"compute stress all reduce sum {' '.join(f'c_atomic[{i}]' for i in range(1, 10))}",
    f"thermo_style custom {' '.join(_TERMS)}",
    *(f"variable v{i} equal {term}" for i, term in enumerate(_TERMS)),
    "run 0",
]


def _head(style: str, boundary: str) -> list[str]:
    return [
        "units metal",
        f"atom_style {style}",
        f"boundary {boundary}",
        "box tilt large",
        "read_data start.data",
    ]


def _run(folder: Path, model: str, lines: list[str], ranks: int) -> FloatArray:
    """Run a deck that writes ``atoms.dump``; its columns behind the id."""
    from dpsim.lammps.launcher import lammps_command

    (folder / "in.lammps").write_text("\n".join([*lines, ""]))
    argv, env = lammps_command(ranks, folder / "in.lammps")
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode != 0 or not (folder / "atoms.dump").is_file():
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no message"]
        raise StageError(f"LAMMPS could not evaluate {model}: {said[0].strip()}")
    values: FloatArray = np.atleast_2d(np.loadtxt(folder / "atoms.dump", skiprows=9))[:, 1:]
    return values
