"""`Potential.evaluate_many` over processes and over ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpsim
from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential
from dpsim.calculators.farm import shares
from dpsim.errors import DataError, ModelError, SetupError
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("farm") / "tiny.safetensors"
    save_model(ModelConfig.tiny().build(), path)
    return path


def _frames() -> list[dict]:
    rng = np.random.default_rng(5)
    return [
        {"positions": rng.uniform(0, 6, (n, 3)), "types": rng.integers(0, 2, n), "cell": np.eye(3) * 6.5}
        for n in (3, 9, 4, 1, 7)
    ]


@given(st.lists(st.integers(0, 500), max_size=40), st.integers(1, 7))
def test_shares_are_whole_and_even(sizes: list[int], n: int) -> None:
    parts = shares(sizes, n)
    assert len(parts) == n
    assert sorted(k for part in parts for k in part) == list(range(len(sizes)))
    loads = [sum(sizes[k] for k in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_over_processes(model: Path) -> None:
    potential, frames = dpsim.load(model), _frames()
    for one, two in zip(potential.evaluate_many(frames), potential.evaluate_many(frames, processes=2), strict=True):
        np.testing.assert_allclose(two.energy, one.energy, rtol=1e-12)
        np.testing.assert_allclose(two.forces, one.forces, rtol=0, atol=1e-12)
        np.testing.assert_allclose(two.virial, one.virial, rtol=0, atol=1e-12)
    frames[3]["types"] = [5]
    with pytest.raises(ModelError, match="frame 3"):
        potential.evaluate_many(frames, processes=2)


def test_what_cannot_be_shared(model: Path) -> None:
    made = Potential(ModuleEngine(ModelConfig.tiny().build(), "cpu"), "made here")
    with pytest.raises(SetupError, match=r"made here was not made by dpsim\.load, so other processes cannot"):
        made.evaluate_many(_frames(), processes=2)
    potential = dpsim.load(model)
    with pytest.raises(SetupError, match="give comm or processes"):
        potential.evaluate_many(_frames(), comm=object(), processes=2)
    with pytest.raises(SetupError, match="in 0 processes"):
        potential.evaluate_many(_frames(), processes=0)
    with pytest.raises(DataError, match="frame 1"):
        potential.evaluate_many([_frames()[0], {"positions": np.zeros((2, 3)), "types": [0]}])


def test_a_program_without_its_guard(model: Path, tmp_path: Path) -> None:
    """The processes would start the program again, which Python refuses; said in one sentence."""
    program = tmp_path / "bare.py"
    program.write_text(
        "import sys, dpsim\n"
        f"potential = dpsim.load({str(model)!r})\n"
        "frame = {'positions': [[0, 0, 0]], 'types': [0]}\n"
        "try:\n    potential.evaluate_many([frame, frame], processes=2)\n"
        "except dpsim.errors.SetupError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'lacks the line if __name__ == "__main__":' in done.stderr.splitlines()[-1]


@pytest.mark.lammps
def test_over_ranks(model: Path, tmp_path: Path) -> None:
    from dpsim.lammps.packages import mpich_file, program_environment

    program = Path(__file__).with_name("farm_program.py")
    argv = [str(mpich_file("mpiexec")), "-n", "2", sys.executable, "-m", "mpi4py", str(program), str(model)]
    done = subprocess.run(argv, env=program_environment(None, 1), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "agreed on 2 ranks"
