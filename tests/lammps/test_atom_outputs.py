"""What belongs to single atoms, and what LAMMPS makes of it: heat flux, parts of hybrid styles, scaled styles; and
what it stores and reads again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deck_table import Done, liquid, predict, run_decks
from ensembles import with_header
from families import freeze
from lammps_runs import MEASURE, NKTV2P, System, grid, head, read_output, run_program, symbols

from dpsim.lammps.packages import mpich_file

pytestmark = pytest.mark.lammps

SYSTEM = liquid()


def _start(folder: Path, system: System = SYSTEM, elements: tuple[str, ...] = ("O", "H"), **keywords: str) -> str:
    return head(system, system.write(folder / "s.data", elements), **keywords)


def _pair(model: Path) -> str:
    return f"pair_style dpsim {model}\npair_coeff * * O H\n"


FLUX = """
compute k all ke/atom
compute e all pe/atom
compute c all centroid/stress/atom NULL virial
compute j all heat/flux k e c
thermo_style custom step pe c_j[1] c_j[2] c_j[3]
thermo_modify format float %.15g
dump d all custom 1 x.dump id xu yu zu vx vy vz c_k c_e c_c[*]
dump_modify d sort id format float %.17g
"""


def _heat(frame: np.ndarray) -> np.ndarray:
    """Σ r (ke + pe)."""
    return (frame[:, 1:4] * (frame[:, 7] + frame[:, 8])[:, None]).sum(0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_heat_flux(ranks: int, model64: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It is the sum over the atoms' parts and, in an open box, the rate at which energy moves: of a model without
    messages exactly, as the energy of an atom then depends on its neighbours alone; of another there is a warning."""
    classic = freeze(["se_e2_a-ener"], request.config.cache.mkdir("dpsim-models"))["se_e2_a-ener"]
    cluster = System(grid(24, (7.0,) * 3, 5), symbols(24, 5), np.eye(3) * 7.0, "s s s")
    timestep = 2e-5
    move = f"velocity all create 2000 4928 loop all\nfix n all nve\ntimestep {timestep}\nthermo 1\n{FLUX}run 2\n"
    done = run_decks(
        {
            "bulk": lambda f: _start(f) + _pair(model64) + move,
            "cluster": lambda f: _start(f, cluster) + _pair(classic) + move,
        },
        ranks,
        tmp_path,
    )
    assert {name: one.log.count("do not give the exact heat flux") for name, one in done.items()} == {
        "bulk": 1, "cluster": 0,
    }  # fmt: skip
    for one in done.values():
        flux, frame = one.thermo()[1, 2:5], one.frames()[1]
        v, energy, stress = frame[:, 4:7], frame[:, 7] + frame[:, 8], frame[:, 9:18]
        parts = stress[:, [0, 3, 4, 6, 1, 5, 7, 8, 2]].reshape(-1, 3, 3)  # xx xy xz, yx yy yz, zx zy zz
        assert np.abs(parts - parts.swapaxes(1, 2)).max() > 1e-3 * np.abs(parts).max()
        expected = (energy[:, None] * v).sum(0) - np.einsum("nab,nb->a", parts, v) / NKTV2P
        np.testing.assert_allclose(flux, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    before, _, after = done["cluster"].frames()
    rate = (_heat(after) - _heat(before)) / (2 * timestep)
    flux = done["cluster"].thermo()[1, 2:5]
    np.testing.assert_allclose(flux, rate, rtol=0, atol=1e-6 * np.abs(rate).max())


def _mixture() -> System:
    return System(grid(50, (9.0,) * 3, 13), symbols(50, 13, ("O", "H", "H", "Ar")), np.eye(3) * 9.0)


LJ = "".join(f"pair_coeff {t} 3 lj/cut 0.01 2.4\n" for t in (1, 2, 3))
HYBRID = {
    "hybrid": ("hybrid dpsim MODEL lj/cut 4.5", 1.0, 1.0),
    "overlay": ("hybrid/overlay dpsim MODEL lj/cut 4.5", 1.0, 1.0),
    "scaled": ("hybrid/scaled 0.3 dpsim MODEL 1.7 lj/cut 4.5", 0.3, 1.7),
}


@pytest.mark.parametrize("ranks", [1, 2])
def test_atoms_under_hybrid(ranks: int, model64: Path, eager, tmp_path: Path) -> None:
    """Energies and virials of atoms are those of the model and of the other style, as far as each is scaled."""
    system = _mixture()
    argon = np.array([s == "Ar" for s in system.symbols])
    kept = System(system.positions[~argon], tuple(s for s in system.symbols if s != "Ar"), system.cell)
    expected = predict(eager, kept)
    decks: dict[str, Callable[[Path], str]] = {
        name: lambda f, style=style: _start(f, system, ("O", "H", "Ar")) + f"pair_style {style}\n".replace(
            "MODEL", str(model64)) + "pair_coeff * * dpsim O H NULL\n" + LJ + MEASURE
        for name, (style, *_) in HYBRID.items()
    }  # fmt: skip
    decks["lj"] = lambda f: (
        _start(f, system, ("O", "H", "Ar")) + "pair_style hybrid/overlay zero 4.5 lj/cut 4.5\npair_coeff * * zero\n"
        + LJ + MEASURE
    )  # fmt: skip
    done = {name: read_output(one.folder) for name, one in run_decks(decks, ranks, tmp_path).items() if not one.error}
    assert set(done) == {*HYBRID, "lj"}
    for name, (_, own, other) in HYBRID.items():
        found, lj = done[name], done["lj"]
        energy, virial = other * lj.atomic_energy, other * lj.centroid.sum(0)
        energy[~argon] += own * expected.atomic_energy
        virial += own * expected.virial.T[[0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 2, 0, 0, 1]]
        np.testing.assert_allclose(found.energy, own * expected.energy + other * lj.energy, rtol=1e-10)
        np.testing.assert_allclose(found.atomic_energy, energy, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.centroid.sum(0), virial, rtol=0, atol=1e-9 * np.abs(virial).max())
        np.testing.assert_allclose(found.stress.sum(0), virial[:6], rtol=0, atol=1e-9 * np.abs(virial).max())


# ---- settings --------------------------------------------------------------------------------------

ADAPT = """
variable s equal 1.0-0.25*step
fix a all adapt 1 pair dpsim scale * * v_s
fix n all nve
thermo_modify format float %.15g
thermo 1
dump d all custom 1 x.dump id xu yu zu fx fy fz
dump_modify d sort id format float %.17g
velocity all create 300 4928 loop all
run 2
unfix a
run 0
"""


def test_scale(model64: Path, eager, tmp_path: Path) -> None:
    """``fix adapt`` turns the model down, and leaves it so unless it resets."""
    done = run_decks({"adapt": lambda f: _start(f) + _pair(model64) + ADAPT}, 1, tmp_path)["adapt"]
    rows = done.thermo()
    for step, factor in ((0, 1.0), (1, 0.75), (2, 0.5)):
        frame = done.frames()[step]
        expected = predict(eager, SYSTEM, frame[:, 1:4])
        np.testing.assert_allclose(rows[step, 2], factor * expected.energy, rtol=1e-10)
        forces = factor * expected.forces
        np.testing.assert_allclose(frame[:, 4:7], forces, rtol=0, atol=1e-10 * np.abs(forces).max())


def test_another_pair_style_begins_anew(model64: Path, eager, tmp_path: Path) -> None:
    """Neither a scale that ``fix adapt`` has left nor what was said of masses goes over to it."""
    scaled = "variable s equal 0.5\nfix a all adapt 1 pair dpsim scale * * v_s\nrun 0\nunfix a\n"
    again = _pair(model64).replace("O H", "H O") + "run 0\n"
    decks = {"two": lambda f: _start(f) + _pair(model64) + "thermo_modify format float %.15g\n" + scaled + again}
    done = run_decks(decks, 1, tmp_path)["two"]
    turned = System(SYSTEM.positions, tuple({"O": "H", "H": "O"}[s] for s in SYSTEM.symbols), SYSTEM.cell)
    expected = [0.5 * predict(eager, SYSTEM).energy, predict(eager, turned).energy]
    np.testing.assert_allclose(done.thermo()[:, 2], expected, rtol=1e-10)
    assert done.log.count("is mapped to") == 2


def test_data_and_restart_files(model64: Path, tmp_path: Path) -> None:
    """A file of data or a restart asks for the pair style again, and goes on with the same energy."""

    def deck(folder: Path) -> str:
        first = _start(folder) + _pair(model64) + "thermo_modify format float %.15g\nfix n all nve\nrun 3\n"
        first += "write_data d.data nofix\nwrite_data p.data pair ij nofix\nwrite_restart r.restart\n"
        kinds = ("read_data d.data", "read_data p.data", "read_restart r.restart")
        again = "clear\nunits metal\natom_style atomic\n{}\n" + _pair(model64)
        again += "thermo_modify format float %.15g\nrun 0\n"
        return first + "".join(again.format(kind) for kind in kinds)

    for ranks in (1, 2):
        done = run_decks({"files": deck}, ranks, tmp_path)["files"]
        rows = done.thermo()
        assert len(rows) == 5
        np.testing.assert_allclose(rows[2:, 2], rows[1, 2], rtol=1e-12)


SAID = {
    "shift": ("pair_modify shift yes\nrun 0", r'WARNING: pair_style dpsim: "pair_modify shift yes" has no effect on a'),
    "tail": ("pair_modify tail yes\nrun 0", r'WARNING: pair_style dpsim: "pair_modify tail yes" has no effect on a'),
    "nothing": ("pair_modify mix geometric\nrun 0", r"Total wall time|Loop time"),
}
REFUSED = {
    "pair_write": ("pair_write 1 1 10 r 1 3 t.txt O-O", r"does not support pair_write|not support pair"),
    "pair/local": ("compute l all pair/local eng\ndump l all local 1 l.txt c_l\nrun 0", r"compute pair/local"),
    "pair_coeff of one pair": ("pair_coeff 1 2 O H", r"Pair_coeff must start with \* \*"),
    "another parameter": ("variable s equal 1\nfix a all adapt 1 pair dpsim epsilon * * v_s\nrun 0",
                          r"[Ff]ix adapt.* (does not|not supported|not support)"),
}  # fmt: skip


def test_settings_of_pair_styles(model64: Path, tmp_path: Path) -> None:
    """What LAMMPS asks of pair potentials is refused or has no effect, and says so."""
    cases = {**SAID, **REFUSED}
    decks = {n: lambda f, w=w: _start(f) + _pair(model64) + w + "\n" for n, (w, _) in cases.items()}
    done: dict[str, Done] = run_decks(decks, 1, tmp_path)
    for name, (_, text) in SAID.items():
        assert done[name].error == ""
        assert re.search(text, done[name].log), name
        assert ("has no effect" in done[name].log) == (name != "nothing")
    for name, (_, text) in REFUSED.items():
        assert re.search(text, done[name].error), done[name].error


def test_ranks_that_read_different_files(model64: Path, tmp_path: Path) -> None:
    """As from another machine's disk: an older model under the same name."""
    from dpsim.lammps.launcher import lammps_command

    for folder, digest in (("one", "aaaa"), ("two", "bbbb")):
        (tmp_path / folder).mkdir()
        with_header(model64, tmp_path / folder / "model.pt2", {"digest": digest})
    deck = _start(tmp_path) + "pair_style dpsim model.pt2\npair_coeff * * O H\nrun 0\n"
    (tmp_path / "in.x").write_text(deck.replace("s.data", str(tmp_path / "s.data")))
    argv, env = lammps_command(1, tmp_path / "in.x", log="none", plugin=True)
    program = [str(mpich_file("mpiexec"))]
    for folder in ("one", "two"):
        program += [*([] if folder == "one" else [":"]), "-n", "1", "-wdir", str(tmp_path / folder), *argv]
    code, text = run_program(program, env, tmp_path, 100)
    assert code != 0
    found = re.search(r"model file model\.pt2 on rank 1 is not that of rank 0 \(digest (\w+).* against (\w+)", text)
    assert found is not None, text[-2000:]
    assert found.groups() == ("bbbb", "aaaa")
