"""Models with electrostatics in LAMMPS: many waves, derivatives, conserved energy, changing boxes, what is refused."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from families import build, freeze
from lammps_runs import TIMEOUT, System, compare, grid, head, run, run_failing, run_program, single_point, symbols

from dpsim.calculators.evaluate import Potential, load
from dpsim.lammps.packages import program_environment

pytestmark = pytest.mark.lammps

RANKS = [1, 2, pytest.param(4, marks=pytest.mark.slow)]
PRINT_ENERGY = 'print "ENERGY $(pe:%.17g)"\n'


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny model, frozen in float64."""
    return freeze(["dplr"], request.config.cache.mkdir("dpsim-models"))["dplr"]


@pytest.fixture(scope="module")
def potential(model: Path) -> Potential:
    """The frozen model in Python."""
    return load(model)


def with_charges(source: Path, target: Path, **changes: object) -> Path:
    """A copy of a frozen model with other charges or waves."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("_metadata.json"):
                outer = json.loads(data)
                inner = json.loads(outer["dpsim"])
                inner["electrostatics"] |= changes
                data = json.dumps({**outer, "dpsim": json.dumps(inner)}).encode()
            new.writestr(item.filename, data)
    return target


def box(n: int = 48, length: float = 8.6, seed: int = 4) -> System:
    """A triclinic box, not too dense."""
    cell = np.array([[1.0, 0, 0], [0.25, 0.95, 0], [-0.2, 0.3, 1.05]]) * length
    x = grid(n, (1, 1, 1), seed, jitter=0.0) + np.random.default_rng(seed).uniform(-0.02, 0.02, (n, 3))
    return System(x @ cell, symbols(n, seed), cell)


def start(folder: Path, model: Path, system: System, **keywords: str) -> str:
    deck = head(system, system.write(folder / "s.data", ("O", "H")), **keywords)
    return deck + f"pair_style dpsim {model}\npair_coeff * * O H\n"


def energies(text: str) -> np.ndarray:
    return np.array([float(found) for found in re.findall(r"^ENERGY (\S+)$", text, re.MULTILINE)])


def thermo(text: str) -> np.ndarray:
    rows = [line.split() for line in text.splitlines() if re.match(r"^\s+\d+\s+-?\d", line)]
    return np.array([[float(v) for v in row] for row in rows])


@pytest.mark.parametrize("ranks", RANKS)
def test_many_waves(model: Path, tmp_path: Path, ranks: int) -> None:
    """So many waves and charges that they are summed in several parts; every atom has a centroid."""
    changed = with_charges(model, tmp_path / "m.pt2", ewald_h=0.3, ewald_beta=0.9, centroid_charge=[-8.0, 0.7])
    system = box(180, 13.4)
    expected = load(changed).evaluate(system.positions, system.symbols, system.cell)
    compare(single_point(tmp_path, start(tmp_path, changed, system), ranks), expected, 1e-10)


def test_charges_matter(model: Path, potential: Potential, tmp_path: Path) -> None:
    """The electrostatics has its share in everything that the parity of LAMMPS and Python is about."""
    silent = with_charges(model, tmp_path / "m.pt2", ion_charge=[0.0, 0.0], centroid_charge=[0.0, 0.0])
    still = with_charges(model, tmp_path / "n.pt2", centroid_charge=[0.0, 0.0])
    system = box()
    structure = system.positions, system.symbols, system.cell
    whole, short, ions = (p.evaluate(*structure) for p in (potential, load(silent), load(still)))
    for name in ("energy", "forces", "virial", "atomic_energy"):
        values = [np.asarray(getattr(p, name)) for p in (whole, short, ions)]
        assert np.abs(values[0] - values[1]).max() > 1e-3 * np.abs(values[0]).max(), name
        assert np.abs(values[0] - values[2]).max() > 1e-3 * np.abs(values[0]).max(), name
    compare(single_point(tmp_path, start(tmp_path, silent, system), 2), short, 1e-10)


def test_forces_are_derivatives_of_the_energy(model: Path, tmp_path: Path) -> None:
    """Atoms of both elements moved on two ranks, by LAMMPS itself."""
    system, step = box(), 1e-3
    atoms = [system.symbols.index("O") + 1, system.symbols.index("H") + 1]
    deck = start(tmp_path, model, system) + "thermo_modify lost error\nrun 0\n"
    weights = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
    for atom in atoms:
        deck += f"group one id {atom}\n"
        for axis in range(3):
            place = 0
            for shift in weights:
                by = ["0"] * 3
                by[axis] = f"{(shift - place) * step:.17g}"
                place = shift
                deck += f"displace_atoms one move {' '.join(by)}\nrun 0\n" + PRINT_ENERGY
            by[axis] = f"{-place * step:.17g}"
            deck += f"displace_atoms one move {' '.join(by)}\n"
        deck += "group one delete\n"
    deck += "dump d all custom 1 atoms.dump id fx fy fz\ndump_modify d sort id format float %.17g\nrun 0\n"
    found = energies(run(tmp_path, deck, 2)).reshape(2, 3, 4)
    slopes = found @ np.array(list(weights.values())) / (12 * step)
    forces = np.loadtxt(tmp_path / "atoms.dump", skiprows=9)[:, 1:]
    np.testing.assert_allclose(-slopes, forces[np.array(atoms) - 1], atol=2e-6 * np.abs(forces).max())


def test_pressure_is_the_derivative_by_volume(model: Path, tmp_path: Path) -> None:
    system, step = box(), 1e-4
    text = ""
    for scale in (-2, -1, 1, 2):
        cell = system.cell * (1 + scale * step)
        scaled = System(system.positions * (1 + scale * step), system.symbols, cell)
        text += run(tmp_path, start(tmp_path, model, scaled) + "run 0\n" + PRINT_ENERGY)
    slope = energies(text) @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * step)
    virial = single_point(tmp_path, start(tmp_path, model, system), 2).virial
    np.testing.assert_allclose(-slope, np.trace(virial), atol=1e-6 * np.abs(virial).max())


def soft(deck: str) -> str:
    """With a repulsion, which the untrained model lacks."""
    deck = deck.replace("pair_style dpsim", "pair_style hybrid/overlay lj/cut 3.0 dpsim")
    return deck.replace("* * O H", "* * dpsim O H") + "pair_coeff * * lj/cut 0.02 1.7\npair_modify shift yes\n"


def dynamics(folder: Path, model: Path, timestep: float, steps: int) -> str:
    deck = soft(start(folder, model, box(24, 8.1)))
    return deck + (
        "neighbor 0.3 bin\nneigh_modify every 1 delay 0 check yes\nvelocity all create 600 4928 loop all\n"
        f"fix n all nve\ntimestep {timestep}\nthermo_style custom step pe ke etotal\n"
        f"thermo_modify format float %.15g\nthermo {steps // 10}\nrun {steps}\n"
    )


def test_energy_is_conserved(model: Path, tmp_path: Path) -> None:
    """Its spread falls with the square of the time step, and ranks do not matter."""
    coarse, fine = (run(tmp_path, dynamics(tmp_path, model, dt, n)) for dt, n in ((0.00025, 100), (0.000125, 200)))
    rows, finer = thermo(coarse), thermo(fine)
    assert int(re.findall(r"Neighbor list builds = (\d+)", coarse)[-1]) >= 2
    assert np.ptp(rows[:, 1]) > 0.05 * rows[:, 2].mean(), "nothing has moved"
    spread, finer_spread = np.ptp(rows[:, 3]), np.ptp(finer[:, 3])
    assert spread < 2e-3 * np.ptp(rows[:, 1])
    assert 3.0 < spread / finer_spread < 5.0
    two = thermo(run(tmp_path, dynamics(tmp_path, model, 0.00025, 100), 2))
    np.testing.assert_allclose(two[:6], rows[:6], rtol=1e-8)


def test_box_that_changes(model: Path, potential: Potential, tmp_path: Path) -> None:
    """A barostat turns and stretches all of the box; what LAMMPS says at the end is what Python says of it."""
    deck = start(tmp_path, model, box(24, 8.1)) + (
        "velocity all create 300 11 loop all\nfix n all npt temp 300 300 0.1 tri 0 0 0.5\ntimestep 0.0005\n"
        "run 12\nunfix n\ndump d all custom 1 atoms.dump id type x y z fx fy fz\n"
        "dump_modify d sort id format float %.17g\nrun 0\n" + PRINT_ENERGY + 'print "BOX $(lx:%.17g) $(ly:%.17g) '
        '$(lz:%.17g) $(xy:%.17g) $(xz:%.17g) $(yz:%.17g)"\n'
    )
    text = run(tmp_path, deck, 2)
    lx, ly, lz, xy, xz, yz = (float(v) for v in re.findall(r"^BOX (.*)$", text, re.MULTILINE)[-1].split())
    assert abs(lx - 8.1) > 1e-6
    rows = np.loadtxt(tmp_path / "atoms.dump", skiprows=9)
    cell = np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]])
    expected = potential.evaluate(rows[:, 2:5], rows[:, 1].astype(int) - 1, cell)
    np.testing.assert_allclose(energies(text)[-1], expected.energy, rtol=1e-10)
    assert expected.forces is not None
    np.testing.assert_allclose(rows[:, 5:], expected.forces, rtol=0, atol=1e-10 * np.abs(expected.forces).max())


def test_minimization(model: Path, tmp_path: Path) -> None:
    deck = soft(start(tmp_path, model, box(24, 8.1))) + (
        "thermo_style custom step pe\nthermo_modify format float %.15g\nthermo 5\nminimize 0 0 10 40\n"
    )
    one, two = (thermo(run(tmp_path, deck, ranks))[:, 1] for ranks in (1, 2))
    assert len(one) >= 3
    assert (np.diff(one) < 0).all()
    np.testing.assert_allclose(two, one, rtol=1e-9)


def test_hybrid_with_atoms_of_no_charge(model: Path, potential: Potential, tmp_path: Path) -> None:
    """Atoms of another style are neither neighbours nor charges; a rank may be without any atom."""
    system = box(24, 9.0)
    low = System(system.positions * [1, 1, 0.4], system.symbols, system.cell)
    extra = np.array([[4.0, 4.0, 8.0]])
    both = System(np.vstack([low.positions, extra]), (*low.symbols, "Ar"), system.cell)
    deck = head(both, both.write(tmp_path / "s.data", ("O", "H", "Ar")), before="processors 1 1 *")
    deck += f"pair_style hybrid/overlay dpsim {model} zero 5.0\npair_coeff * * dpsim O H NULL\npair_coeff * * zero\n"
    deck += "dump d all custom 1 atoms.dump id fx fy fz\ndump_modify d sort id format float %.17g\nrun 0\n"
    expected = potential.evaluate(low.positions, low.symbols, system.cell)
    for ranks in (1, 3):
        text = run(tmp_path, deck + PRINT_ENERGY, ranks)
        np.testing.assert_allclose(energies(text)[-1], expected.energy, rtol=1e-10)
        forces = np.loadtxt(tmp_path / "atoms.dump", skiprows=9)[:, 1:]
        assert not forces[-1].any()
        assert expected.forces is not None
        np.testing.assert_allclose(forces[:-1], expected.forces, rtol=0, atol=1e-10 * np.abs(expected.forces).max())


def test_real_units(model: Path, potential: Potential, tmp_path: Path) -> None:
    system = box()
    deck = start(tmp_path, model, system, units="real") + "run 0\n" + PRINT_ENERGY
    expected = potential.evaluate(system.positions, system.symbols, system.cell).energy
    assert expected is not None
    np.testing.assert_allclose(energies(run(tmp_path, deck))[-1], expected * 23.060549, rtol=1e-9)


def test_open_boundaries_are_refused(model: Path, tmp_path: Path) -> None:
    system = box()
    slab = System(system.positions, system.symbols, np.diag(np.diag(system.cell)), "p p f")
    message = run_failing(tmp_path, start(tmp_path, model, slab) + "run 0\n", 2)
    sentence = r'has electrostatics of a periodic box, but this one is open along z; write "boundary p p p"'
    assert re.search(sentence, message)


CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "charges": ({"ion_charge": [6.0]}, r"ion_charge has 1 members, expected 2"),
    "spacing": ({"ewald_h": 0.0}, r"ewald_h and ewald_beta must be positive"),
    "waves": ({"ewald_h": 0.001}, r"the electrostatics of this box has more than \d+ waves, .* a smaller box, or"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_file_may_say(name: str, model: Path, tmp_path: Path) -> None:
    changes, sentence = CHANGES[name]
    changed = with_charges(model, tmp_path / "m.pt2", **changes)
    assert re.search(sentence, run_failing(tmp_path, start(tmp_path, changed, box(24)) + "run 0\n"))


NO_MEMORY = """
import resource
from dpsim.lammps import start
lmp = start(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(open("in.part").read())
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20),) * 2)
lmp.command("run 0")
"""


def test_where_memory_ends(model: Path, tmp_path: Path) -> None:
    """40 million waves: one sentence, and no stack of calls."""
    changed = with_charges(model, tmp_path / "m.pt2", ewald_h=0.02)
    system = System(box(24).positions, box(24).symbols, np.eye(3) * 8.6)
    (tmp_path / "in.part").write_text(start(tmp_path, changed, system))
    code, text = run_program([sys.executable, "-c", NO_MEMORY], program_environment(None, 1), tmp_path, TIMEOUT)
    assert code != 0
    said = text[text.index("pair_style dpsim:") :]
    need = r"m\.pt2 needs more memory than there is for the electrostatics of 24 atoms of one rank, in a box of 8\.6"
    assert re.search(need + r" x 8\.6 x 8\.6 A; use a smaller box, .* or a model with a larger ewald_h", said), text
    assert "frame #" not in text


def test_summary_names_the_charges(model: Path) -> None:
    from dpsim.calculators.model_summary import summarize

    facts = summarize(model)
    assert facts["format"] == "dpsim frozen model 3"
    assert facts["electrostatics"]["centroid_charge"] == [-8.0, 0.0]


def test_checks_of_freezing(model: Path) -> None:
    """PyTorch, the frozen file, ASE and LAMMPS agree, and finite differences are made."""
    from dpsim.calculators.freeze_checks import run_checks

    said: list[str] = []
    report: Callable[[int, str], None] = lambda done, text: said.append(text)  # noqa: E731
    checks = {check.name: check for check in run_checks(build("dplr"), model, "cpu", True, report)}
    assert len(said) == 3
    assert set(checks) == {
        "frozen_vs_pytorch", "ase_vs_pytorch", "forces_vs_finite_differences", "stress_vs_finite_differences",
        "lammps_vs_pytorch",
    }  # fmt: skip
    assert all(check.passed for check in checks.values()), checks
    assert checks["lammps_vs_pytorch"].note == "2 structures; energy, forces, virial"
