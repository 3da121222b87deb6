"""All units of LAMMPS that have dimensions: the same structure and the same run, converted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deck_table import Done, liquid, run_decks
from lammps_runs import MASSES, MEASURE, System, grid, head, read_output, symbols

pytestmark = pytest.mark.lammps

EV, ANGSTROM, GRAM_PER_MOL = 1.602176634e-19, 1e-10, 1.66053907e-27
TOLERANCE = 2e-7
"""LAMMPS's constants of different unit styles agree to about so many digits (its electron volt is that of 2006)."""

# In SI: energy, length, mass, time, pressure.
UNITS = {
    "metal": (EV, ANGSTROM, GRAM_PER_MOL, 1e-12, 1e5),
    "real": (4184 / 6.02214129e23, ANGSTROM, GRAM_PER_MOL, 1e-15, 101325.0),
    "si": (1.0, 1.0, 1.0, 1.0, 1.0),
    "cgs": (1e-7, 1e-2, 1e-3, 1.0, 0.1),
    "electron": (4.3597447222e-18, 0.529177210903e-10, GRAM_PER_MOL, 1e-15, 1.0),
    "micro": (1e-15, 1e-6, 1e-15, 1e-6, 1e3),
    "nano": (1e-21, 1e-9, 1e-21, 1e-9, 1e6),
}
SYSTEM = liquid(30, 7.5)
STEPS = 10


def _deck(folder: Path, model: Path, style: str) -> str:
    _, length, mass, time, _ = UNITS[style]
    scale = ANGSTROM / length
    system = replace(SYSTEM, positions=scale * SYSTEM.positions, cell=scale * SYSTEM.cell)
    data = system.write(folder / "s.data", ("O", "H"))
    text = data.read_text()
    for element, value in MASSES.items():  # of a type
        kind = {"O": 1, "H": 2}.get(element, 0)
        text = text.replace(f"{kind} {value}\n", f"{kind} {value * GRAM_PER_MOL / mass:.17g}\n", 1)
    data.write_text(text)
    deck = head(system, data, units=style)
    deck += f"pair_style dpsim {model}\npair_coeff * * O H\nneighbor {0.4 * scale:.17g} bin\n"
    deck += "neigh_modify every 1 delay 0 check yes\n" + MEASURE
    return deck + (
        f"undump d\nvelocity all create 1200 4928 loop all\nfix n all nve\ntimestep {5e-16 / time:.17g}\n"
        f"run {STEPS}\nwrite_dump all custom last.dump id xu yu zu modify sort id format float %.17g\n"
    )


@pytest.fixture(scope="module")
def runs(model64: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """A run in each of them."""
    decks = {style: lambda folder, style=style: _deck(folder, model64, style) for style in UNITS}
    return run_decks(decks, 1, tmp_path_factory.mktemp("units"))


@pytest.mark.parametrize("style", [style for style in UNITS if style != "metal"])
def test_units(style: str, runs: dict[str, Done]) -> None:
    one, other = (read_output(runs[name].folder) for name in ("metal", style))
    metal, own = UNITS["metal"], UNITS[style]
    energy, length = own[0] / metal[0], own[1] / metal[1]

    def close(found: np.ndarray, wanted: np.ndarray) -> None:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())

    close(energy * other.energy, one.energy)
    close(energy * other.atomic_energy, one.atomic_energy)
    close(energy / length * other.forces, one.forces)
    close(own[4] / metal[4] * length**3 * _pressure(runs[style]), _pressure(runs["metal"]))
    close(own[4] / metal[4] * length**3 * other.stress, one.stress)
    close(own[4] / metal[4] * length**3 * other.centroid, one.centroid)
    last, reference = (runs[name].frames("last.dump")[0][:, 1:] for name in (style, "metal"))
    moved = np.abs(reference - SYSTEM.positions).max()
    assert moved > 0.02
    np.testing.assert_allclose(length * last, reference, rtol=0, atol=1e-5 * moved)
    warnings = [line for line in runs[style].log.splitlines() if line.startswith("WARNING: pair_style dpsim")]
    assert all("heat flux" in line for line in warnings), warnings


def _pressure(done: Done) -> np.ndarray:
    """Virial part of the pressure times the volume."""
    totals = np.loadtxt(done.folder / "totals.txt")
    return totals[1:7] * totals[7]


def test_mass_of_another_element_in_other_units(model64: Path, tmp_path: Path) -> None:
    def deck(folder: Path) -> str:
        system = System(1e-10 * grid(10, (7, 7, 7), 1), symbols(10, 1), np.eye(3) * 7e-10)
        data = system.write(folder / "s.data", ("O", "H"))
        data.write_text(data.read_text().replace("1 15.999", "1 6.6e-27").replace("2 1.008", "2 1.6738e-27"))
        return (
            head(system, data, units="si")
            + f"pair_style dpsim {model64}\npair_coeff * * O H\nneighbor 4e-11 bin\nrun 0\n"
        )

    done = run_decks({"si": deck}, 1, tmp_path)["si"]
    assert done.error == ""
    warnings = [line for line in done.log.splitlines() if "is mapped to" in line]
    assert len(warnings) == 1
    assert "atom type 1 is mapped to O but has mass 6.6e-27, expected about 2.65" in warnings[0]
