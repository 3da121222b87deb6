"""What gives energies, forces and stress: a model, or any calculator of ASE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.errors import DpsimError, ModelError, StageError

if TYPE_CHECKING:
    from ase import Atoms

    from data_tools.calculators import EAMConfig, EMTConfig, LJConfig, PySCFConfig, TBLiteConfig
    from data_tools.code_calculators import CodeConfig
    from dpsim.calculators.evaluate import Potential

    CalculatorSettings = EAMConfig | EMTConfig | LJConfig | PySCFConfig | TBLiteConfig | CodeConfig

Array = NDArray[np.float64]
Progress = Callable[..., None]
"""Called as ``progress(done, total, message)``; it may raise, which stops the work."""
Make = Callable[["Atoms"], Any]
"""Gives the calculator of a structure; another structure of the same atoms may use it too."""
_BATCH = 16
"""Structures evaluated between two reports of progress."""


class Evaluated(NamedTuple):
    """Energy (eV), forces (n, 3) (eV/Å) and, of periodic structures, stress (3, 3) (eV/Å³, tensile positive)."""

    energy: float
    forces: Array
    stress: Array | None


def model_source(path: Path, head: str | None = None, device: str = "auto", precision: str | None = None) -> Make:
    """Calculators that share one model.

    Parameters
    ----------
    path, head, device
        As in `dpsim.load`.
    precision
        ``"float32"``, ``"float64"``, or None: float64, in which small displacements and strains are not lost in
        rounding, where the file can be computed in it, which a frozen one can not beside its own.

    Raises
    ------
    ModelError
        If the file cannot be read, or predicts something else than energies.
    """
    from dpsim.calculators.evaluate import load

    wanted = precision or (None if path.suffix in (".pt2", ".pth") else "float64")
    return potential_source(load(path, head, device, wanted))


def potential_source(potential: Potential) -> Make:
    """Calculators that share an opened model; a structure with an element that it does not know is refused."""
    from dpsim.calculators.ase import DPCalculator
    from dpsim.calculators.lammps_data import elements_of

    if potential.outputs != {"energy"}:
        raise ModelError(f"{potential.source} predicts {', '.join(potential.outputs)}: a model of energies is needed")

    def make(atoms: Atoms) -> Any:
        elements_of(atoms, potential.type_map, name_of(atoms))
        return DPCalculator(potential)

    return make


def calculator_source(config: CalculatorSettings) -> Make:
    """Calculators that a label stage would use."""

    def make(atoms: Atoms) -> Any:
        config.check(atoms, ("energy", "forces"))
        return config.build(atoms)

    return make


def as_source(source: Any) -> Make:
    """Take a `Potential`, a calculator of ASE, or what gives calculators."""
    from ase.calculators.abc import GetPropertiesMixin

    from dpsim.calculators.evaluate import Potential

    if isinstance(source, Potential):
        return potential_source(source)
    if isinstance(source, GetPropertiesMixin):
        return lambda atoms: source
    make: Make = source
    return make


def name_of(atoms: Atoms) -> str:
    """How messages call a structure."""
    return str(atoms.info.get("name") or atoms.info.get("source") or atoms.get_chemical_formula())


def evaluate_all(
    structures: Sequence[Atoms], source: Any, progress: Progress | None = None, message: str = "structures evaluated"
) -> list[Evaluated]:
    """Evaluate structures, those of a model in batches.

    Raises
    ------
    StageError
        If a calculator fails, or gives a number that is not finite.
    """
    make, found = as_source(source), list[Evaluated]()
    calculator: Any = None
    numbers: Any = None
    while len(found) < len(structures):
        atoms = structures[len(found)]
        if numbers is None or not np.array_equal(numbers, atoms.numbers):
            calculator, numbers = make(atoms), atoms.numbers
        if potential := _single_model(calculator):
            found += _batch(structures[len(found) : len(found) + _BATCH], potential, make)
        else:
            found.append(evaluate(atoms, calculator))
        if progress is not None:
            progress(len(found), len(structures), message)
    return found


def evaluate(atoms: Atoms, calculator: Any) -> Evaluated:
    """Evaluate one structure; its own calculator stays.

    Raises
    ------
    StageError
        If the calculator fails, or gives a number that is not finite.
    """
    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = calculator
    try:
        energy, forces = float(copy.get_potential_energy()), np.array(copy.get_forces(), dtype=float)
        stress = stress_of(copy)
    except DpsimError:
        raise
    except Exception as error:  # calculators raise whatever they meet
        raise StageError(f"{name_of(atoms)} cannot be computed: {type(error).__name__}: {error}") from error
    return _checked(atoms, Evaluated(energy, forces, stress))


def stress_of(atoms: Atoms) -> Array | None:
    """Stress (3, 3) in eV/Å³ of a periodic structure, by its own calculator; None if that gives none."""
    from ase.calculators.calculator import PropertyNotImplementedError

    if not _periodic(atoms):
        return None
    try:
        return np.array(atoms.get_stress(voigt=False), dtype=float)
    except (PropertyNotImplementedError, NotImplementedError):
        return None


def _single_model(calculator: Any) -> Any:
    from dpsim.calculators.ase import DPCalculator

    single = isinstance(calculator, DPCalculator) and len(calculator.potentials) == 1
    return calculator.potentials[0] if single else None


def _batch(structures: Sequence[Atoms], potential: Potential, make: Make) -> list[Evaluated]:
    from dpsim.calculators.ase_frame import frame_of

    frames = []
    for atoms in structures:
        make(atoms)  # refuses elements that the model does not know
        frames.append({**frame_of(atoms, potential), "source": name_of(atoms)})
    found = []
    for atoms, one in zip(structures, potential.evaluate_many(frames), strict=True):
        assert one.energy is not None
        assert one.forces is not None
        stress = None
        if _periodic(atoms) and one.virial is not None:
            stress = -0.5 * (one.virial + one.virial.T) / atoms.get_volume()
        found.append(_checked(atoms, Evaluated(float(one.energy), one.forces, stress)))
    return found


def _periodic(atoms: Atoms) -> bool:
    return bool(atoms.pbc.all()) and atoms.cell.rank == 3


def _checked(atoms: Atoms, found: Evaluated) -> Evaluated:
    if not (np.isfinite(found.energy) and np.isfinite(found.forces).all()):
        raise StageError(f"{name_of(atoms)}: energy or forces are not finite numbers: the structure is unphysical")
    return found
