"""Structures, decks and runs of LAMMPS for the tests of the plugin."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpsim.lammps.launcher import lammps_command

NKTV2P = 1.6021765e6
"""LAMMPS's own factor from eV/Å³ to bar in metal units."""
MASSES = {"O": 15.999, "H": 1.008, "Ar": 39.95}
TIMEOUT = 150.0


@dataclass(frozen=True)
class System:
    """Atoms in a box; rows of `cell` are vectors, lower triangular as LAMMPS wants them."""

    positions: np.ndarray
    symbols: tuple[str, ...]
    cell: np.ndarray
    boundary: str = "p p p"

    @property
    def periodic(self) -> tuple[bool, ...]:
        return tuple(b == "p" for b in self.boundary.split())

    def write(
        self, path: Path, elements: Sequence[str], style: str = "atomic", spins: np.ndarray | None = None
    ) -> Path:
        """LAMMPS data file; numbers keep all digits. `spins` (n, 3) μB belong to the style spin."""
        a, b, c = self.cell
        lines = ["test", "", f"{len(self.symbols)} atoms", f"{len(elements)} atom types", ""]
        lines += [f"0 {v:.17g} {n}lo {n}hi" for v, n in zip((a[0], b[1], c[2]), "xyz", strict=True)]
        if any((b[0], c[0], c[1])):
            lines.append(f"{b[0]:.17g} {c[0]:.17g} {c[1]:.17g} xy xz yz")
        lines += ["", "Masses", "", *(f"{k + 1} {MASSES[e]}" for k, e in enumerate(elements)), "", "Atoms", ""]
        molecule = "1 " if style == "molecular" else ""
        for k, (symbol, x) in enumerate(zip(self.symbols, self.positions, strict=True)):
            numbers = " ".join(f"{v:.17g}" for v in x)
            spin = "" if spins is None else _spin_columns(spins[k])
            lines.append(f"{k + 1} {molecule}{elements.index(symbol) + 1} {numbers}{spin}")
        path.write_text("\n".join(lines) + "\n")
        return path


def _spin_columns(spin: np.ndarray) -> str:
    length = float(np.linalg.norm(spin))
    direction = spin / length if length else np.array([0.0, 0.0, 1.0])
    return "".join(f" {v:.17g}" for v in (*direction, length))


def grid(
    n: int, box: Sequence[float], seed: int, jitter: float = 0.3, fill: Sequence[float] | None = None
) -> np.ndarray:
    """`n` points on a randomly displaced grid in `fill` (default: the box), never close to each other."""
    rng = np.random.default_rng(seed)
    extent = np.array(fill or box, dtype=float)
    spacing = (extent.prod() / n) ** (1 / 3)
    while True:
        counts = np.maximum(1, np.floor(extent / spacing).astype(int))
        if counts.prod() >= n:
            break
        spacing *= 0.97
    points = np.stack(np.meshgrid(*[np.arange(c) for c in counts], indexing="ij"), axis=-1).reshape(-1, 3)
    points = (points[rng.permutation(len(points))[:n]] + 0.5) * extent / counts
    return points + rng.uniform(-jitter, jitter, (n, 3)) * np.minimum(1.0, extent / counts / 2)


def symbols(n: int, seed: int, elements: Sequence[str] = ("O", "H", "H")) -> tuple[str, ...]:
    """`n` random elements."""
    return tuple(str(s) for s in np.random.default_rng(seed).choice(elements, n))


@dataclass(frozen=True)
class Output:
    """What a single point wrote, atoms in the order of the data file."""

    energy: float
    virial: np.ndarray
    """(3, 3) eV, from the pressure."""
    forces: np.ndarray
    atomic_energy: np.ndarray
    stress: np.ndarray
    """(n, 6) of compute stress/atom, eV, sign of the virial."""
    centroid: np.ndarray
    """(n, 9) of compute centroid/stress/atom."""
    magnetic: np.ndarray
    """(n, 3) fm in rad/ps of spin models, else (n, 0)."""
    text: str


def run(folder: Path, deck: str, ranks: int = 1, timeout: float = TIMEOUT, name: str = "in.lammps") -> str:
    """Run a deck and return what it printed; a run that does not end in time is killed and fails."""
    (folder / name).write_text(deck)
    argv, env = lammps_command(ranks, folder / name, log="none", plugin=True)
    code, text = run_program(argv, env, folder, timeout)
    assert code == 0, f"{ranks} ranks, exit code {code}:\n{text[-4000:]}"
    return text


def run_failing(folder: Path, deck: str, ranks: int = 1) -> str:
    """Run a deck that must fail, and return its error message on one line."""
    (folder / "in.lammps").write_text(deck)
    argv, env = lammps_command(ranks, folder / "in.lammps", log="none", plugin=True)
    code, text = run_program(argv, env, folder, TIMEOUT)
    assert code != 0, f"the run should have failed:\n{text[-3000:]}"
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if "ERROR" in line), None)
    assert start is not None, f"no error message:\n{text[-3000:]}"
    return " ".join(lines[start : start + 4])


def run_program(argv: Sequence[str], env: dict[str, str], folder: Path, timeout: float) -> tuple[int, str]:
    """Exit code and output; the whole process group ends with it."""
    process = subprocess.Popen(
        argv, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        raise AssertionError(f"no end after {timeout} s (deadlock?):\n{text[-3000:]}") from None
    return process.returncode, text


def head(system: System, data: Path, *, units: str = "metal", before: str = "", style: str = "atomic") -> str:
    """Beginning of a deck, up to the data file."""
    lines = [f"units {units}", f"boundary {system.boundary}", f"atom_style {style}", before]
    return "\n".join([*lines, f"read_data {data.name}\n"])


_TOTALS = " ".join(f"$({name}:%.17g)" for name in ("pe", *(f"c_p[{k}]" for k in range(1, 7)), "vol"))
MEASURE = """
compute e all pe/atom
compute s all stress/atom NULL virial
compute c all centroid/stress/atom NULL virial
compute p all pressure NULL virial
thermo_style custom step pe c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6] vol
dump d all custom 1 atoms.dump id fx fy fz c_e c_s[*] c_c[*]
dump_modify d sort id format float %.17g
run 0
print "@TOTALS@" file totals.txt
""".replace("@TOTALS@", _TOTALS)
MEASURE_SPINS = "compute m all property/atom fmx fmy fmz" + MEASURE.replace("fx fy fz", "fx fy fz c_m[*]")
"""For spin models: the magnetic forces as well."""


def single_point(folder: Path, deck: str, ranks: int, measure: str = MEASURE) -> Output:
    """Energy, virial and everything per atom; `deck` ends with pair_coeff. `measure` may be MEASURE_SPINS."""
    text = run(folder, deck + measure, ranks)
    return read_output(folder, text)


def read_output(folder: Path, text: str = "") -> Output:
    """What the lines of MEASURE or MEASURE_SPINS wrote into a folder."""
    totals = np.loadtxt(folder / "totals.txt")
    atoms = np.loadtxt(folder / "atoms.dump", skiprows=9, ndmin=2)
    magnetic, values = atoms[:, 4:-16], atoms[:, -16:]
    xx, yy, zz, xy, xz, yz = totals[1:7] * totals[7] / NKTV2P
    return Output(
        energy=float(totals[0]),
        virial=np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
        forces=atoms[:, 1:4],
        atomic_energy=values[:, 0],
        stress=-values[:, 1:7] / NKTV2P,
        centroid=-values[:, 7:] / NKTV2P,
        magnetic=magnetic,
        text=text,
    )


def compare(found: Output, expected, tolerance: float) -> None:
    """Everything that LAMMPS reports against a prediction of Python.

    The virial of a spin model is not symmetric, as strain leaves spins where they are. The pressure has the upper
    triangle (force times distance), which is how boxes change in LAMMPS; stress/atom has the symmetric part, and
    centroid/stress/atom all of it, distances first.
    """
    upper, lower = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    scale, virial_scale = np.abs(expected.forces).max() or 1.0, np.abs(expected.virial).max() or 1.0

    def close(value: np.ndarray, wanted: np.ndarray, scale: float) -> None:
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * scale)

    np.testing.assert_allclose(found.energy, expected.energy, rtol=tolerance)
    close(found.atomic_energy, expected.atomic_energy, abs(expected.atomic_energy).max())
    close(found.forces, expected.forces, scale)
    close(found.virial[upper, lower], expected.virial[upper, lower], virial_scale)
    symmetric = (expected.virial + expected.virial.T) / 2
    close(found.stress.sum(0), symmetric[upper, lower], virial_scale)
    close(found.centroid.sum(0), expected.virial.T[[*upper, 1, 2, 2], [*lower, 0, 0, 1]], virial_scale)
