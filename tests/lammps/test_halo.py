"""The halo exchange over MPI, without LAMMPS, and what is decided about devices."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lammps_runs import run_program
from native_graph import load

from dpsim.lammps.packages import mpich_file, program_environment

pytestmark = pytest.mark.lammps


def _run(ranks: int, plugin: Path, folder: Path, **environment: str) -> str:
    program = Path(__file__).with_name("halo_program.py")
    argv = [str(mpich_file("mpiexec")), "-n", str(ranks), sys.executable, str(program), str(plugin)]
    code, text = run_program(argv, {**program_environment(None, 1), **environment}, folder, 120)
    assert code == 0, text[-3000:]
    return text


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_extend_and_fold(ranks: int, plugin: Path, tmp_path: Path) -> None:
    """Every row arrives once, ranks without atoms or ghosts included, and fold is the adjoint of extend."""
    text = _run(ranks, plugin, tmp_path)
    found = re.search(r"adjoint (\S+) (\S+)", text)
    assert found, text
    assert float(found.group(1)) < 1e-14
    assert float(found.group(2)) < 1e-6
    assert dict(re.findall(r"^route (\w+) (.*)$", text, re.MULTILINE)) == {
        "auto": "host memory",
        "host": "host memory",
        "device": '"mpi device" needs a model on a GPU, this one runs on the CPU; leave the keyword out',
    }
    assert "claims 0" in text


FAILING_DEVICE = {
    "auto": "pinned host memory",
    "device": '"mpi device" failed: a trial message from GPU memory did not arrive intact; use "mpi host"',
}
"""Decided by all ranks together, whatever a device throws."""
ANSWERS = {
    "Open MPI": "int MPIX_Query_cuda_support(void) { return 1; }",
    "Open MPI, built without": "int MPIX_Query_cuda_support(void) { return 0; }",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_mpi_says_of_device_memory(name: str, plugin: Path, tmp_path: Path) -> None:
    """By the function that MPI libraries have for it; the one asked first is preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "answer.c").write_text(ANSWERS[name] + "\n")
    library = tmp_path / "libanswer.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "answer.c")], check=True)
    text = _run(2, plugin, tmp_path, LD_PRELOAD=str(library))
    assert f"claims {0 if 'without' in name else 1}" in text
    assert dict(re.findall(r"^trial (\w+) (.*)$", text, re.MULTILINE)) == ({} if "without" in name else FAILING_DEVICE)


GPUS = {
    ("cuda", "auto", 1, 0): "0",
    ("cuda", "cuda", 4, 3): "3",
    ("cuda", "auto", 4, 6): "2",  # ranks in excess share
    ("cuda", "auto", 1, 5): "0",  # also where each rank is shown a GPU of its own
    (
        "cuda",
        "auto",
        0,
        0,
    ): 'was frozen for a GPU, but this machine has none that CUDA can use; freeze the model with "--device cpu"',
    (
        "cuda",
        "cpu",
        2,
        0,
    ): 'was frozen for the device cuda, not cpu; freeze it with "--device cpu" or write "device cuda"',
    (
        "cpu",
        "cuda",
        2,
        0,
    ): 'was frozen for the device cpu, not cuda; freeze it with "--device cuda" or write "device cpu"',
}


@pytest.mark.parametrize("case", GPUS)
def test_gpu_of_a_rank(case: tuple[str, str, int, int], plugin: Path) -> None:
    made_for, wanted, n_devices, local_rank = case
    said = load(plugin).dpsim_choose_gpu(made_for.encode(), wanted.encode(), n_devices, local_rank)
    assert said.decode() == GPUS[case]
