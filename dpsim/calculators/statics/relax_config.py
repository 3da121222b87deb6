"""What a relaxation is told: until when, what may move, with which method."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpsim.calculators.statics.declared import On
from dpsim.config import Config, Force, Fraction, Pressure

Cell = Literal["fixed", "volume", "shape", "full"]
_ASE, _LAMMPS = ("FIRE", "LBFGS", "BFGS"), ("CG", "FIRE")


class RelaxSettings(Config):
    """How a structure is relaxed."""

    fmax: Annotated[Force, Field(gt=0)] = 0.01
    """Longest force on an atom at which a structure is relaxed, eV/Å."""
    cell: Cell = "fixed"
    """What of the cell moves: nothing, its `volume`, its `shape` at constant volume, or both (`full`)."""
    pressure: Pressure = 0.0
    """Outer pressure, bar; for a cell whose volume moves."""
    stress_max: Annotated[Pressure, Field(gt=0)] = 500.0
    """Largest component of the stress beyond the outer pressure at which a cell that moves is relaxed, bar."""
    max_steps: Annotated[int, Field(ge=1)] = 500
    """Steps after which a structure counts as not converged."""
    optimizer: Literal["FIRE", "LBFGS", "BFGS", "CG"] | None = None
    """Method: of ASE FIRE (by default), LBFGS or BFGS; of LAMMPS CG (by default), or FIRE at fixed cell."""
    keep_symmetry: bool = False
    """Whether forces and stress are made symmetric, so that the space group of the start is kept; of ASE."""

    @model_validator(mode="after")
    def _pressure_has_effect(self) -> Self:
        if self.pressure != 0 and self.cell not in ("volume", "full"):
            raise ValueError(
                f"pressure has no effect on a cell whose volume is kept (cell: {self.cell}): use cell: full"
            )
        if self.optimizer == "CG" and getattr(self, "engine", "ase") == "ase":
            raise ValueError(f"optimizer CG is one of LAMMPS, ASE has {', '.join(_ASE)}")
        return self


class TightSettings(RelaxSettings):
    """How a crystal is relaxed before small displacements and strains."""

    fmax: Annotated[Force, Field(gt=0)] = 1e-3
    """Longest force on an atom at which a structure is relaxed, eV/Å."""
    cell: Cell = "full"
    """What of the cell moves: nothing, its `volume`, its `shape` at constant volume, or both (`full`)."""
    stress_max: Annotated[Pressure, Field(gt=0)] = 50.0
    """Largest component of the stress beyond the outer pressure at which a cell that moves is relaxed, bar."""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps after which a structure counts as not converged."""
    keep_symmetry: bool = True
    """Whether forces and stress are made symmetric, so that the space group of the start is kept."""


class RelaxConfig(RelaxSettings):
    """Relaxation of structures."""

    on: On
    """Structures: ``label.frames``, ``{path: crystals.xyz}``, ``{prototype: fcc, element: Cu}``, a list of such, or a
    mapping ``{name: structure}``."""
    engine: Literal["ase", "lammps"] = "ase"
    """What moves the atoms; LAMMPS on any number of ranks, with a frozen model."""
    tolerate_failures: Fraction = 0.0
    """Share of the structures that may stay unconverged or fail."""

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "ase":
            return self
        if self.cell == "shape":
            raise ValueError("cell: shape keeps the volume, which LAMMPS cannot: use engine: ase")
        if self.keep_symmetry:
            raise ValueError("keep_symmetry is done by engine: ase, not by LAMMPS")
        allowed = _LAMMPS if self.cell == "fixed" else _LAMMPS[:1]
        if self.optimizer is not None and self.optimizer not in allowed:
            raise ValueError(
                f"optimizer {self.optimizer} is none of LAMMPS for cell: {self.cell}: use {' or '.join(allowed)}"
            )
        return self
