"""An ASE calculator around PySCF for molecules: energy and forces of Kohn-Sham density-functional theory."""

from __future__ import annotations

from typing import Any, ClassVar

from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.units import Bohr, Hartree


class PySCFMolecule(Calculator):  # type: ignore[misc]
    """Kohn-Sham calculator; a calculation that does not converge raises `CalculationFailed`.

    Parameters
    ----------
    xc, basis
        As PySCF names them.
    charge, spin
        Total charge, and number of unpaired electrons.
    conv_tol
        Hartree.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, xc: str, basis: str, charge: int, spin: int, conv_tol: float):
        super().__init__()
        self._options = {"basis": basis, "charge": charge, "spin": spin}
        self._xc, self._conv_tol = xc, conv_tol

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Run the calculation; see ASE."""
        from pyscf import dft, gto

        super().calculate(atoms, properties, system_changes)
        geometry = list(zip(self.atoms.get_chemical_symbols(), self.atoms.positions.tolist(), strict=True))
        molecule = gto.M(atom=geometry, unit="Angstrom", verbose=0, **self._options)
        field = (dft.UKS if self._options["spin"] else dft.RKS)(molecule, xc=self._xc)
        field.conv_tol = self._conv_tol
        energy = field.kernel() * Hartree
        if not field.converged:
            raise CalculationFailed(f"self-consistency not reached in {field.max_cycle} cycles")
        self.results = {"energy": energy, "free_energy": energy}
        if "forces" in properties:
            self.results["forces"] = -field.nuc_grad_method().kernel() * Hartree / Bohr
