"""``compute dpsim/tensor/atom``: beside other styles, in runs, for a part of the atoms, and what can go wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from families import build, freeze
from lammps_runs import System, grid, head, run, run_failing, symbols

pytestmark = pytest.mark.lammps

FAMILY = "dpa3-dipole"


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny model of dipoles, frozen in float64."""
    return freeze([FAMILY], request.config.cache.mkdir("dpsim-models"))[FAMILY]


@pytest.fixture(scope="module")
def dipoles():
    """The same as PyTorch modules."""
    from dpsim.calculators.engines import ModuleEngine
    from dpsim.calculators.evaluate import Potential

    return Potential(ModuleEngine(build(FAMILY), "cpu"), FAMILY)


def _system(elements: tuple[str, ...] = ("O", "H", "H")) -> System:
    return System(grid(40, (8.0,) * 3, 11), symbols(40, 11, elements), np.eye(3) * 8.0)


def _deck(folder: Path, pair: str, elements: tuple[str, ...] = ("O", "H"), system: System | None = None) -> str:
    system = system or _system()
    return head(system, system.write(folder / "s.data", elements)) + pair + "\n"


def _dump(path: Path) -> list[np.ndarray]:
    """Frames of a dump, rows by atom."""
    frames = path.read_text().split("ITEM: TIMESTEP")[1:]
    return [np.array([[float(v) for v in line.split()] for line in frame.splitlines()[9:]]) for frame in frames]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_along_a_run(ranks: int, model: Path, model64: Path, dipoles, tmp_path: Path) -> None:
    """Beside a potential that moves the atoms: values belong to the positions of their step."""
    deck = _deck(tmp_path, f"pair_style dpsim {model64}\npair_coeff * * O H")
    deck += (
        f"compute d all dpsim/tensor/atom {model} O H\ncompute r all reduce sum c_d[*]\nfix n all nve\n"
        "neighbor 0.2 bin\nneigh_modify every 1 delay 0 check yes\n"
        "velocity all create 3000 4928 loop all\ntimestep 0.0005\ndump d all custom 8 x.dump id xu yu zu c_d[*]\n"
        "dump_modify d sort id format float %.17g\nthermo_style custom step pe c_r[1] c_r[2] c_r[3]\n"
        "thermo_modify format float %.15g\nthermo 5\nrun 40\n"
    )
    text = run(tmp_path, deck, ranks)
    assert int(re.findall(r"Neighbor list builds = (\d+)", text)[-1]) >= 2
    frames = _dump(tmp_path / "x.dump")
    assert len(frames) == 6
    for frame in frames:
        expected = dipoles.evaluate(frame[:, 1:4], _system().symbols, np.eye(3) * 8.0).atomic_dipole
        np.testing.assert_allclose(frame[:, 4:], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    last = re.findall(r"^\s+40\s+\S+\s+(\S+)\s+(\S+)\s+(\S+)\s*$", text, re.MULTILINE)[-1]
    np.testing.assert_allclose(np.array(last, dtype=float), frames[-1][:, 4:].sum(0), rtol=1e-9)


@pytest.mark.parametrize("ranks", [1, 2])
def test_group_and_foreign_atoms(ranks: int, model: Path, dipoles, tmp_path: Path) -> None:
    """Atoms outside the group are neighbours without a value, those mapped to NULL are neither."""
    system = _system(("O", "H", "H", "Ar"))
    deck = _deck(tmp_path, "pair_style zero 4.5\npair_coeff * *", ("O", "H", "Ar"), system)
    deck += (
        f"group some id 1:25\ncompute d some dpsim/tensor/atom {model} O H NULL device cpu\n"
        "dump d all custom 1 x.dump id c_d[*]\ndump_modify d sort id format float %.17g\nrun 0\n"
    )
    run(tmp_path, deck, ranks)
    kept = np.array([s != "Ar" for s in system.symbols])
    assert 0 < (~kept).sum() < 40
    expected = np.zeros((40, 3))
    names = [s for s in system.symbols if s != "Ar"]
    expected[kept] = dipoles.evaluate(system.positions[kept], names, system.cell).atomic_dipole
    expected[25:] = 0.0
    found = _dump(tmp_path / "x.dump")[0][:, 1:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


ZERO = "pair_style zero 4.5\npair_coeff * *"
INPUTS = {
    "no elements": (ZERO, "DIPOLE", r"needs a model file and one element for each of the 2 atom types"),
    "unknown element": (ZERO, "DIPOLE O Xe", r"element Xe \(for atom type 2\) is not in the model, which knows O H"),
    "missing file": (ZERO, "nowhere.pt2 O H", r"compute dpsim/tensor/atom: model file nowhere.pt2 does not exist"),
    "potential": (ZERO, "ENERGY O H", r'is a potential; use "pair_style dpsim .*" and "compute pe/atom"'),
    "keyword": (ZERO, "DIPOLE O H speed 3", r"compute dpsim/tensor/atom: unknown keyword speed"),
    "fparam": (ZERO, "DIPOLE O H fparam 3", r"takes no frame parameters; leave out the keyword fparam"),
    "cutoff": (
        "pair_style zero 3.0\npair_coeff * *",
        "DIPOLE O H",
        r"types 1 and 1 are listed up to a distance of 3, .* up to 4",
    ),
    "no pair style": ("", "DIPOLE O H", r'needs a pair style, .* write "pair_style zero 4"'),
}


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_input(name: str, model: Path, model64: Path, tmp_path: Path) -> None:
    pair, words, sentence = INPUTS[name]
    words = words.replace("DIPOLE", str(model)).replace("ENERGY", str(model64))
    deck = _deck(tmp_path, pair) + f"compute d all dpsim/tensor/atom {words}\n"
    deck += "dump d all custom 1 x.dump id c_d[*]\nrun 0\n"
    assert re.search(sentence, run_failing(tmp_path, deck, 2 if name == "missing file" else 1))


def test_pair_style_refuses_dipoles(model: Path, tmp_path: Path) -> None:
    message = run_failing(tmp_path, _deck(tmp_path, f"pair_style dpsim {model}"))
    assert re.search(r'predicts no energy but dipole; give a potential, or use "compute ID group dpsim/te', message)
