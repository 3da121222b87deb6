"""The deviation of an ensemble along a run: the numbers of Python, the peer's columns, on any number of ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deck_table import Done, liquid, run_decks
from ensembles import header, shorter, swapped, with_header
from families import freeze, structure
from lammps_runs import TIMEOUT, System, grid, head, run_program, symbols

from dpsim.calculators.deviation import Deviation, model_deviation
from dpsim.calculators.evaluate import load
from dpsim.lammps.launcher import lammps_command

pytestmark = pytest.mark.lammps

TOLERANCE = 1e-9  # relative to the largest value; written with eleven digits
REAL = 23.060549  # LAMMPS's own factor from eV to kcal/mol


@pytest.fixture(scope="module")
def models(
    request: pytest.FixtureRequest, model64: Path, model32: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Models that differ in types, lists, messages and precision, two spin models, and two with electrostatics."""
    folder = tmp_path_factory.mktemp("models")
    frozen = freeze(["se_e2_a-ener", "spin", "dplr"], request.config.cache.mkdir("dpsim-models"))
    scale = {"virtual_scale": [0.7 * s for s in header(frozen["spin"])["spin"]["virtual_scale"]]}
    charges = header(frozen["dplr"])["electrostatics"]
    weaker = {key: [0.9 * q for q in charges[key]] for key in ("ion_charge", "centroid_charge")}
    return {
        "A": model64,
        "SWAPPED": swapped(model64, folder / "swapped.pt2"),
        "SHORTER": shorter(model64, folder / "shorter.pt2"),
        "SINGLE": model32,
        "CLASSIC": frozen["se_e2_a-ener"],
        "CLASSIC2": swapped(frozen["se_e2_a-ener"], folder / "classic2.pt2"),
        "CHARGED": frozen["dplr"],
        "CHARGED2": with_header(
            frozen["dplr"], folder / "dplr2.pt2", {"electrostatics": {**charges, **weaker}, "digest": "dplr2"}
        ),
        "SPIN": frozen["spin"],
        "SPIN2": with_header(frozen["spin"], folder / "spin2.pt2", {"spin": scale, "digest": "spin2"}),
    }


@dataclass(frozen=True)
class Case:
    """An ensemble and what is written of it, every two steps of a run of four."""

    models: tuple[str, ...]
    words: str = ""
    levels: Mapping[str, float] = field(default_factory=dict)
    style: str = "dpsim"
    """Or a hybrid one, around it."""
    before: str = ""
    units: str = "metal"
    factor: float = 1.0
    tolerance: float = TOLERANCE

    @property
    def elements(self) -> tuple[str, ...]:
        return ("O", "H", "Ar") if self.style != "dpsim" else ("O", "H")


CASES = {
    "three": Case(("A", "SWAPPED", "SHORTER")),
    "no messages in one": Case(("CLASSIC", "A", "SWAPPED"), "atomic"),
    "messages in none": Case(("CLASSIC", "CLASSIC2")),
    "same lists": Case(("A", "SWAPPED", "A"), "atomic"),
    "float32": Case(("SINGLE", "SWAPPED", "SINGLE"), tolerance=3e-5),
    "relative": Case(("A", "SWAPPED"), "atomic relative 0.3 relative_v 0.02", {"relative": 0.3, "relative_v": 0.02}),
    "NULL": Case(("A", "SWAPPED", "CLASSIC"), "atomic", style="hybrid/overlay"),
    "scaled": Case(("SWAPPED", "A"), style="hybrid/scaled"),
    "empty ranks": Case(("A", "SWAPPED"), "atomic", before="processors * 1 1"),
    "real": Case(("A", "SHORTER"), units="real", factor=REAL),
    "real, relative": Case(("A", "SHORTER"), f"relative {0.3 * REAL} relative_v {0.02 * REAL}",
                           {"relative": 0.3, "relative_v": 0.02}, units="real"),
    "spin": Case(("SPIN", "SPIN2"), "atomic"),
    "electrostatics": Case(("CHARGED", "CHARGED2", "A"), "atomic"),
}  # fmt: skip


def _system(name: str) -> tuple[System, np.ndarray | None]:
    case = CASES[name]
    if "SPIN" in case.models:
        return structure("spin")
    if case.style != "dpsim":
        return System(grid(40, (8.2,) * 3, 21), symbols(40, 21, ("O", "H", "H", "Ar")), np.eye(3) * 8.2), None
    if case.before:
        x = grid(24, (30, 8, 8), 6, fill=(7.0, 8, 8)) + np.array([1.0, 0, 0])
        return System(x, symbols(24, 6), np.diag([30.0, 8.0, 8.0])), None
    return liquid(), None


def _deck(name: str, folder: Path, models: Mapping[str, Path]) -> str:
    case, (system, spins) = CASES[name], _system(name)
    style = "atomic" if spins is None else "spin"
    data = system.write(folder / "s.data", case.elements, style, spins)
    files = " ".join(str(models[m]) for m in case.models)
    dpsim = f"dpsim {files} out_file devi.out out_freq 2 {case.words}"
    lines = [head(system, data, units=case.units, before=f"atom_modify map array\n{case.before}", style=style)]
    if case.style == "dpsim":
        lines += [f"pair_style {dpsim}", "pair_coeff * * O H"]
    else:
        scales = ("0.5 ", "1.0 ") if case.style == "hybrid/scaled" else ("", "")
        lines += [f"pair_style {case.style} {scales[0]}{dpsim} {scales[1]}lj/cut 4.0", "pair_coeff * * dpsim O H NULL"]
        lines += [f"pair_coeff {t} 3 lj/cut 0.01 2.0" for t in (1, 2, 3)]
    lines += [
        "neighbor 0.3 bin", "neigh_modify every 1 delay 0 check yes", "velocity all create 4000 4928 loop all",
        f"fix n all nve\ntimestep {0.001 if case.units == 'metal' else 1.0}",
        "dump d all custom 2 x.dump id xu yu zu", "dump_modify d sort id format float %.17g",
        "thermo_style custom step pe", "thermo_modify format float %.15g", "thermo 1", "run 4", "run 0",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def runs(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """All cases on a number of ranks, run when they are first asked for."""
    kept: dict[int, dict[str, Done]] = {}

    def on(ranks: int) -> dict[str, Done]:
        if ranks not in kept:
            decks = {name: lambda folder, name=name: _deck(name, folder, models) for name in CASES}
            kept[ranks] = run_decks(decks, ranks, tmp_path_factory.mktemp("deviation"))
        return kept[ranks]

    return on


@pytest.fixture(scope="module")
def potentials(models: Mapping[str, Path]) -> dict[str, Any]:
    """The same files, in Python."""
    return {name: load(path) for name, path in models.items()}


RANKS = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", CASES)
def test_deviation(name: str, ranks: int, runs, potentials) -> None:
    done, case = runs(ranks)[name], CASES[name]
    expected, kept = _expected(name, done, potentials)
    lines = (done.folder / "devi.out").read_text().splitlines()
    assert lines[0] == _header(case, "SPIN" in case.models)
    table = np.array([[float(v) for v in line.split()] for line in lines[1:]])
    assert table[:, 0].tolist() == [0, 2, 4, 4], "every second step, and again where a run begins"
    np.testing.assert_allclose(table[3], table[2], rtol=0, atol=case.tolerance * table[2, 1:].max())
    for row, one in zip(table[:3], expected, strict=True):
        wanted = [*one.columns]
        if "atomic" in case.words:
            atoms = np.zeros(len(kept))
            atoms[kept] = one.forces
            wanted += atoms.tolist()
        assert len(row) == 1 + len(wanted)
        scale = np.array([*np.repeat(one.columns[::3], 3), *[one.columns[3]] * (len(wanted) - len(one.columns))])
        assert scale.min() > 1e-5, "a test without a deviation shows nothing"
        assert (np.abs(row[1:] - case.factor * np.array(wanted)) <= case.tolerance * case.factor * scale).all()


def _header(case: Case, magnetic: bool) -> str:
    kinds = ("v", "fr", "fm") if magnetic else ("v", "f")
    names = [f"{what}_devi_{kind}" for kind in kinds for what in ("max", "min", "avg")]
    names += ["atm_devi_f(N)"] if "atomic" in case.words else []
    return "#" + "step".rjust(11) + "".join(name.rjust(19) for name in names)


def _expected(name: str, done: Done, potentials) -> tuple[list[Deviation], np.ndarray]:
    case, (system, spins) = CASES[name], _system(name)
    kept = np.array([s != "Ar" for s in system.symbols])
    types = [s for s in system.symbols if s != "Ar"]
    frames = [{"positions": frame[kept, 1:4], "types": types, "cell": system.cell} for frame in done.frames()]
    if spins is not None:
        frames = [{**frame, "spin": spins} for frame in frames]
    return model_deviation([potentials[m] for m in case.models], frames[:3], **case.levels), kept


def test_first_model_drives(runs, potentials) -> None:
    """And all models use one neighbour list."""
    done = runs(1)["three"]
    system = _system("three")[0]
    found = {int(step): energy for step, energy in done.thermo()}
    for step, frame in zip((0, 2, 4), done.frames(), strict=False):
        energy = potentials["A"].evaluate(frame[:, 1:4], system.symbols, system.cell).energy
        np.testing.assert_allclose(found[step], energy, rtol=1e-10)
    assert re.findall(r"(\d+) neighbor lists, perpetual/occasional/extra = (\d+) (\d+) (\d+)", done.log)[0] == (
        "1", "1", "0", "0",
    )  # fmt: skip


INPUTS = {
    "one model": ("A out_freq 10", r"the keyword out_freq is about the deviation between models, but only .* is given"),
    "no second file": ("A nowhere.pt2", r"model file nowhere\.pt2 does not exist"),
    "another kind": ("A DIPOLE", r"predict energy and dipole; an ensemble is made of models of the same kind"),
    "spins": ("A SPIN", r"differ in that one takes spins; an ensemble is made of models of the same kind"),
    "parameters": ("A INPUTS", r"take different numbers of frame parameters; an ensemble"),
    "file": ("A A out_file no/folder.out", r"out_file no/folder\.out cannot be written \(No such file or directory\)"),
    "frequency": ("A A out_freq 2.5", r'"2\.5" behind out_freq is not a whole number of 0 or more'),
    "negative": ("A A out_freq -1", r'"-1" behind out_freq is not a whole number of 0 or more'),
    "level": ("A A relative -0.1", r'the level "-0\.1" behind relative is negative'),
    "no level": ("A A relative", r"keyword relative has no value, expected: .* relative LEVEL"),
    "two words": ("A A atomic yes", r"unknown keyword yes, expected one of: .* atomic"),
    "element": ("A XENON", r"element H \(for atom type 2\) is not in the model .*xenon\.pt2, which knows O Xe"),
}


def test_wrong_input(models: Mapping[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    frozen = freeze(["dpa3-dipole", "dpa3-ener-inputs"], request.config.cache.mkdir("dpsim-models"))
    xenon = with_header(models["A"], tmp_path / "xenon.pt2", {"type_map": ["O", "Xe"]})
    known = {**models, "DIPOLE": frozen["dpa3-dipole"], "INPUTS": frozen["dpa3-ener-inputs"], "XENON": xenon}

    def deck(folder: Path, words: str) -> str:
        system = liquid(20, 7.0)
        line = " ".join(str(known.get(word, word)) for word in words.split())
        start = head(system, system.write(folder / "s.data", ("O", "H")))
        return start + f"pair_style dpsim {line}\npair_coeff * * O H\nrun 0\n"

    decks = {name: lambda folder, words=words: deck(folder, words) for name, (words, _) in INPUTS.items()}
    done = run_decks(decks, 1, tmp_path / "runs")
    wrong = {name: done[name].error for name, (_, text) in INPUTS.items() if not re.search(text, done[name].error)}
    assert wrong == {}


def test_minimization(models: Mapping[str, Path], potentials, tmp_path: Path) -> None:
    """A step has the line of the positions that it ends with, not those of all that the line search tries."""
    system = liquid()
    pair = f"pair_style hybrid/overlay dpsim {models['A']} {models['SWAPPED']} out_freq 2 lj/cut 4.0\n"
    pair += "pair_coeff * * dpsim O H\npair_coeff * * lj/cut 0.5 1.7\n"  # steep, so that first trials go too far
    dump = "dump d all custom 2 x.dump id xu yu zu\ndump_modify d sort id format float %.17g\n"
    start = head(system, system.write(tmp_path / "s.data", ("O", "H"))).replace("s.data", str(tmp_path / "s.data"))
    deck = start + pair + dump + "min_modify dmax 1.0\nminimize 0 0 8 200\n"
    done = run_decks({"minimize": lambda f: deck}, 2, tmp_path / "runs")["minimize"]
    steps = re.search(r"Iterations, force evaluations = (\d+) (\d+)", done.log)
    assert steps
    assert int(steps[1]) == 8
    assert int(steps[2]) > 16
    table = np.loadtxt(done.folder / "model_devi.out")
    frames = [{"positions": x[:, 1:4], "types": system.symbols, "cell": system.cell} for x in done.frames()]
    expected = np.array([one.columns for one in model_deviation([potentials[m] for m in ("A", "SWAPPED")], frames)])
    assert table[:, 0].tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(table[:, 1:], expected, rtol=0, atol=TOLERANCE * expected.max())


def test_partitions(models: Mapping[str, Path], tmp_path: Path) -> None:
    """Each writes a file of its own."""
    system = liquid(20, 7.0)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H")), before="atom_modify map array")
    deck += "variable s world 1 2\ndisplace_atoms all random 0.1 0.1 0.1 $s\n"
    deck += f"pair_style dpsim {models['A']} {models['SINGLE']} out_freq 1 out_file d.out\npair_coeff * * O H\nrun 0\n"
    (tmp_path / "in.x").write_text(deck)
    argv, env = lammps_command(2, tmp_path / "in.x", log="none", plugin=True, extra=["-partition", "2x1"])
    code, text = run_program(argv, env, tmp_path, TIMEOUT)
    assert code == 0, text[-2000:]
    files = {path.name: path.read_text().splitlines() for path in tmp_path.glob("d.out*")}
    assert {name: len(lines) for name, lines in files.items()} == {"d.out.0": 2, "d.out.1": 2}
    assert files["d.out.0"][1] != files["d.out.1"][1]


def test_no_output_is_asked_for(models: Mapping[str, Path], tmp_path: Path) -> None:
    """``out_freq 0`` writes nothing, and by default every hundredth step goes to model_devi.out."""

    def deck(folder: Path, words: str) -> str:
        system = liquid(20, 7.0)
        start = head(system, system.write(folder / "s.data", ("O", "H")))
        return start + f"pair_style dpsim {models['A']} {models['SINGLE']} {words}\npair_coeff * * O H\nrun 0\n"

    done = run_decks({"never": lambda f: deck(f, "out_freq 0"), "default": lambda f: deck(f, "")}, 1, tmp_path)
    assert {name: one.error for name, one in done.items()} == {"never": "", "default": ""}
    assert not (done["never"].folder / "model_devi.out").exists()
    assert len((done["default"].folder / "model_devi.out").read_text().splitlines()) == 2
