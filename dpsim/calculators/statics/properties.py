"""Properties of crystals: each computed from the relaxed structure, as numbers with names, and as details."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dpsim.calculators.statics.defects import surfaces, vacancies
from dpsim.calculators.statics.elastic import elastic_constants
from dpsim.calculators.statics.eos import equation_of_state
from dpsim.calculators.statics.neb import Neb, barrier, vacancy_hop
from dpsim.calculators.statics.phonon_run import summary as phonon_summary
from dpsim.calculators.statics.phonons import phonons
from dpsim.calculators.statics.properties_config import ComputeConfig, NebConfig
from dpsim.calculators.statics.relax import Relaxed
from dpsim.calculators.statics.symmetry import conventional, lattice_system, symmetry_of
from dpsim.errors import StageError

if TYPE_CHECKING:
    from ase import Atoms

OnStep = Callable[[str], None]
"""Called with what is being done; it may raise, which stops the work."""


class Found(NamedTuple):
    """One property of one structure: its numbers by name, in the units of `values`, and details for JSON."""

    values: dict[str, float]
    details: dict[str, Any]


def compute(
    name: str,
    relaxed: Relaxed,
    source: Any,
    config: ComputeConfig,
    *,
    kept: Path | None = None,
    say: OnStep | None = None,
) -> Found:
    """Compute one property of a relaxed crystal.

    Parameters
    ----------
    name
        Of the property: one of `ComputeConfig.of_crystals`.
    relaxed
        The crystal.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    config
        Options of all properties.
    kept
        Folder for what is done, so that a killed calculation goes on.
    say
        Told what is being done.

    Raises
    ------
    DpsimError
        If it cannot be computed.
    """
    atoms = relaxed.atoms
    match name:
        case "relax":
            return _lattice(relaxed, config)
        case "eos":
            return _eos(atoms, source, config)
        case "elastic":
            return _elastic(atoms, source, config)
        case "vacancy":
            return _vacancy(atoms, source, config)
        case "surface":
            return _surface(atoms, source, config)
        case "phonon":
            return _phonon(atoms, source, config, kept)
    assert config.neb
    initial, final = vacancy_hop(atoms, config.neb.min_length)
    return band(initial, final, source, config.neb, say)


def band(initial: Atoms, final: Atoms, source: Any, settings: NebConfig, say: OnStep | None = None) -> Found:
    """Compute a barrier as a property."""

    def on_step(step: int, longest: float) -> None:
        if say is not None:
            say(f"step {step} of the band, longest force {longest:.3g} eV/Å")

    return _neb(barrier(initial, final, source, settings, on_step=on_step))


def _lattice(relaxed: Relaxed, config: ComputeConfig) -> Found:
    """Lattice constants of the conventional cell, those that are not the same by symmetry."""
    atoms, after = relaxed.atoms, relaxed.after
    assert after is not None
    symprec = 1e-3
    symmetry = symmetry_of(atoms, symprec)
    system = lattice_system(int(symmetry.number))
    lengths_angles = dict(zip("abc", conventional(atoms, symprec).cell.lengths(), strict=True))
    names = {"cubic": "a", "tetragonal": "ac", "trigonal": "ac", "hexagonal": "ac"}.get(system, "abc")
    values = {name: float(lengths_angles[name]) for name in names}
    if system in ("monoclinic", "triclinic"):
        angles = zip(("alpha", "beta", "gamma"), conventional(atoms, symprec).cell.angles(), strict=True)
        values |= {name: float(angle) for name, angle in angles if system == "triclinic" or name == "beta"}
    values |= {"volume": atoms.get_volume() / len(atoms), "energy": after.energy / len(atoms)}
    details = {
        "space_group": str(symmetry.international), "system": system, "steps": relaxed.steps, "fmax_eV_A": after.fmax,
        "cell": [float(value) for value in atoms.cell.cellpar()], "formula": atoms.get_chemical_formula(),
    }  # fmt: skip
    return Found(values, details)


def _eos(atoms: Atoms, source: Any, config: ComputeConfig) -> Found:
    assert config.eos
    found = equation_of_state(atoms, source, config.eos)
    values = {
        "V0": found.volume, "E0": found.energy, "B0": found.bulk_modulus, "B0_prime": found.derivative,
    }  # fmt: skip
    details = {
        "equation": config.eos.equation, "volumes_A3_atom": found.volumes.tolist(),
        "energies_eV_atom": found.energies.tolist(), "residual_eV_atom": found.residual,
        "curve_volumes_A3_atom": found.curve[0].tolist(), "curve_energies_eV_atom": found.curve[1].tolist(),
    }  # fmt: skip
    return Found(values, details)


def _elastic(atoms: Atoms, source: Any, config: ComputeConfig) -> Found:
    found = elastic_constants(atoms, source, config.elastic or None)
    values = found.constants | {
        "bulk_modulus": found.hill[0], "shear_modulus": found.hill[1], "youngs_modulus": found.young,
        "poisson_ratio": found.poisson, "anisotropy": found.anisotropy,
    }  # fmt: skip
    details = {
        "system": found.system, "stable": found.stable, "matrix_GPa": found.matrix.tolist(),
        "standard_matrix_GPa": found.standard.tolist(), "eigenvalues_GPa": found.eigenvalues.tolist(),
        "voigt_GPa": list(found.voigt), "reuss_GPa": list(found.reuss), "asymmetry_GPa": found.asymmetry,
        "residual_stress_GPa": found.residual_stress,
    }  # fmt: skip
    return Found(values, details)


def _vacancy(atoms: Atoms, source: Any, config: ComputeConfig) -> Found:
    values: dict[str, float] = {}
    sites: list[dict[str, Any]] = []
    for one in vacancies(atoms, source, config.vacancy or None):
        earlier = sum(other["element"] == one.element for other in sites)
        name = f"vacancy_{one.element}" + (f"_{earlier + 1}" if earlier else "")
        values[name] = one.energy
        sites.append({
            "name": name, "element": one.element, "site": one.site, "unrelaxed_eV": one.unrelaxed, "atoms": one.atoms,
        })  # fmt: skip
    return Found(values, {"sites": sites})


def _surface(atoms: Atoms, source: Any, config: ComputeConfig) -> Found:
    found = surfaces(atoms, source, config.surface or None)
    details = [
        {"miller": list(one.miller), "unrelaxed_J_m2": one.unrelaxed, "area_A2": one.area, "atoms": one.atoms}
        for one in found
    ]
    return Found({f"surface_{one.name}": one.energy for one in found}, {"surfaces": details})


def _neb(found: Neb) -> Found:
    values = {
        "neb_barrier": found.barrier, "neb_reverse_barrier": found.reverse, "neb_reaction_energy": found.reaction,
    }  # fmt: skip
    details = {
        "distances_A": found.distances.tolist(), "energies_eV": found.energies.tolist(),
        "curve_distances_A": found.curve[0].tolist(), "curve_energies_eV": found.curve[1].tolist(),
        "steps": found.steps, "fmax_eV_A": found.fmax, "atoms": len(found.images[0]),
        "positions_A": [np.round(image.positions, 6).tolist() for image in found.images],
        "cell_A": found.images[0].cell.array.tolist(), "symbols": found.images[0].get_chemical_symbols(),
    }  # fmt: skip
    return Found(values, details)


def _phonon(atoms: Atoms, source: Any, config: ComputeConfig, kept: Path | None) -> Found:
    assert config.phonon
    # The structure is relaxed already, by the settings of all properties.
    settings = config.phonon.model_copy(update={"relax": False, "thermal": False})
    found = phonons(atoms, source, settings, kept=kept)
    if found.imaginary.found and settings.imaginary.fail:
        raise StageError(f"{found.imaginary.sentence} (imaginary.fail is set)")
    values = {
        "phonon_highest": found.highest, "phonon_lowest": found.imaginary.lowest,
        "zero_point_energy": found.zero_point,
    }  # fmt: skip
    return Found(values, phonon_summary(found))


def problems_of(name: str, found: Found) -> Sequence[str]:
    """What a person should be told of a result."""
    details = found.details
    said = []
    if name == "elastic":
        if not details["stable"]:
            said.append("the crystal is mechanically unstable: an eigenvalue of the elastic constants is negative")
        if details["residual_stress_GPa"] > 0.1:
            said.append(
                f"the crystal has a stress of {details['residual_stress_GPa']:.2g} GPa without strain, so elastic "
                "constants depend on their definition: relax its cell"
            )
    if name == "phonon" and details["imaginary"]:
        said.append(details["message"])
    return said
