"""How the tests of bad input call a command, and the good input that they spoil."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BIN = Path(sys.executable).parent
DPSIM = (sys.executable, "-P", "-m", "dpsim.cli.main")

TRAIN = """\
type_map: [O, H]
data: data
model:
  preset: dpa3-tiny
  descriptor: {repflow: {nlayers: 1}}
  fitting: {neuron: [4]}
steps: 2
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    added: frozenset[str]
    """Files and folders that were not there before."""

    @property
    def sentence(self) -> str:
        """The only line on standard error, of a command that failed with one sentence and left nothing behind."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert (self.out, self.added) == ("", frozenset())
        return lines[0]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def call(folder: Path, *command: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
    """Run a command in a folder as a user would; whatever it says, it is no traceback and changes nothing there was."""
    before = listing(folder)
    words = [str(word) for word in command]
    words = [*DPSIM, *words[1:]] if words[0] == "dpsim" else words
    done = subprocess.run(
        words,
        cwd=folder,
        env=dict(env) if env is not None else environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    after = listing(folder)
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    assert {name: after.get(name) for name in before} == before
    return Outcome(done.returncode, done.stdout, done.stderr, frozenset(after.keys() - before.keys()))


def environment(first: Sequence[Path] = (), **changes: str) -> dict[str, str]:
    """Environment of an activated Python environment, with folders put before it on the PATH."""
    hidden = ("LD_LIBRARY_PATH", "LAMMPS_PLUGIN_PATH", "MPI4PY_LIBMPI", "PYTHONPATH", "CXX")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["PATH"] = os.pathsep.join([*map(str, first), str(BIN), env["PATH"]])
    return {**env, **changes}


def write_structures(path: Path, spoil: Callable[[list], None] = lambda frames: None) -> Path:
    """Write three labelled boxes of water, after `spoil` has changed the list."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for number in range(3):
        rng = np.random.default_rng(number)
        water = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
        atoms = Atoms("OHH", positions=np.array(water) + rng.normal(0, 0.03, (3, 3)), cell=[5, 5, 5], pbc=True)
        labels = {"energy": -1.0 - 0.1 * number, "forces": rng.normal(0, 0.1, (3, 3)), "stress": np.zeros(6)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    spoil(frames)
    write(path, frames, format="extxyz")
    return path
