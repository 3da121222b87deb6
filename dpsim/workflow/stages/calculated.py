"""Stages that compute with a calculator of ASE: what it needs, and what of it decides the result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_tools.calculators import CalculatorConfig, EAMConfig, PySCFConfig, TBLiteConfig
from data_tools.code_calculators import CodeConfig
from dpsim.errors import SetupError
from dpsim.workflow.stage import Files, SeededStage, Source

_INSTALL = "pip install 'dpsim[label]'"
_CITATIONS = {
    "GFN1-xTB": "GFN1-xTB: S. Grimme, C. Bannwarth, P. Shushkov, J. Chem. Theory Comput. 13, 1989 (2017)",
    "GFN2-xTB": "GFN2-xTB: C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019)",
    "emt": "EMT: K. W. Jacobsen, P. Stoltze, J. K. Norskov, Surf. Sci. 366, 394 (1996)",
    "eam": "EAM: M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984)",
    "espresso": "Quantum ESPRESSO: P. Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017)",
    "cp2k": "CP2K: T. D. Kühne et al., J. Chem. Phys. 152, 194103 (2020)",
    "vasp": "VASP: G. Kresse, J. Furthmüller, Phys. Rev. B 54, 11169 (1996)",
    "abinit": "ABINIT: X. Gonze et al., Comput. Phys. Commun. 248, 107042 (2020)",
    "siesta": "SIESTA: A. García et al., J. Chem. Phys. 152, 204108 (2020)",
    "aims": "FHI-aims: V. Blum et al., Comput. Phys. Commun. 180, 2175 (2009)",
    "orca": "ORCA: F. Neese, F. Wennmohs, U. Becker, C. Riplinger, J. Chem. Phys. 152, 224108 (2020)",
    "nwchem": "NWChem: E. Aprà et al., J. Chem. Phys. 152, 184102 (2020)",
    "dftb": "DFTB+: B. Hourahine et al., J. Chem. Phys. 152, 124101 (2020)",
    "pyscf": "PySCF: Q. Sun et al., J. Chem. Phys. 153, 024109 (2020)",
}


class CalculatedStage(SeededStage):
    """A stage with a calculator, which may be None where something else can take its place."""

    if TYPE_CHECKING:
        calculator: CalculatorConfig | None

    def packages(self) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
        """Yield the package of the calculator."""
        if isinstance(self.calculator, TBLiteConfig | PySCFConfig):
            yield ("calculator", "name"), self.calculator.name, _INSTALL

    def programs(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what a code lacks on this machine."""
        if isinstance(self.calculator, CodeConfig):
            try:
                self.calculator.words()
            except SetupError as error:
                yield ("calculator", "name"), str(error)

    def key_options(self) -> dict[str, Any]:
        """Return the options with those of a code that decide the result: not its command, profile and cores."""
        options = super().key_options()
        if isinstance(self.calculator, CodeConfig):
            return {**options, "calculator": self.calculator.key_settings()}
        return options

    def files_of_calculator(self) -> Iterator[Source]:
        """Yield the files that the calculator names: potentials, pseudopotentials, a template."""
        calculator = self.calculator
        if isinstance(calculator, EAMConfig):
            files = Files(path=calculator.potential)
            yield Source("calculator", ("calculator", "potential"), files, optional=calculator.ships())
        elif isinstance(calculator, CodeConfig):
            with contextlib.suppress(SetupError):  # which `programs` says
                for place, path in list(calculator.files()):
                    yield Source("calculator", ("calculator", *place), Files(path=path))

    def citations_of_calculator(self) -> Iterator[str]:
        """Yield the references of ASE and of the method, where it has one."""
        yield "ASE: A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017)"
        if self.calculator is not None:
            method = getattr(self.calculator, "method", self.calculator.name)
            if method in _CITATIONS:
                yield _CITATIONS[method]
