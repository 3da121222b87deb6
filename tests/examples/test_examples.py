"""The examples run as their README says, in order, and print what they promise."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROW = re.compile(r"^\| `(?P<file>\S+)` \|.*?\| `(?P<command>[^`]+)` \|", re.MULTILINE)


def listed() -> dict[str, list[str]]:
    """Files of the table in the README, with the command that runs each."""
    return {m["file"]: shlex.split(m["command"]) for m in ROW.finditer((EXAMPLES / "README.md").read_text())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the examples without what earlier runs wrote."""
    ignored = shutil.ignore_patterns("output", "runs", "__pycache__")
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignored))


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as in an active environment, with nothing set by hand."""
    hidden = ("LD_LIBRARY_PATH", "LAMMPS_PLUGIN_PATH", "PYTHONPATH", "MPI4PY_LIBMPI")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def run(folder: Path, name: str) -> str:
    """Run an example; return what it printed."""
    done = start(folder, *listed()[name])
    assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    for sign in ("Traceback", "Warning", "mismatch"):
        assert sign not in done.stderr, f"{name}\n{done.stderr}"
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """Groups of the first match, as numbers."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern!r} in\n{text}"
    return [float(group) for group in match.groups()]


def test_every_example_is_listed() -> None:
    present = {path.name for path in EXAMPLES.glob("[0-9]*") if path.is_file()} | {
        f"{path.parent.name}/{path.name}" for path in EXAMPLES.glob("[0-9]*/*")
    }
    assert present == set(listed())


def test_labelling_and_conversion(folder: Path) -> None:
    from dpsim.data import open_dataset

    out = run(folder, "01_label_and_convert.py")
    assert "labelled 80 frames, 0 failed" in out
    for part, frames in {"train": 64, "valid": 16}.items():
        data = open_dataset([folder / "output/data" / part])
        assert (len(data), data.type_map) == (frames, ("Cu",))
        assert {"energy", "forces", "virial"} <= set(data[0].labels)


@pytest.mark.parametrize(
    "name",
    [
        "02_train.py",
        "03_freeze_and_ase.py",
        "04_lammps.py",
        "05_mpi4py.py",
        "07_phonons.py",
        "08_finetune.py",
        "09_parallel_training.py",
    ],
)
def test_what_to_run_first_is_said(folder: Path, name: str) -> None:
    done = start(folder, sys.executable, name)
    assert done.returncode == 1
    assert re.fullmatch(r".*there .*yet: run \d\d_\S+\.py.* first", done.stderr.strip())


@pytest.mark.slow
@pytest.mark.lammps
def test_all_in_order(folder: Path) -> None:
    assert "80 (REF_forces)" in run(folder, "01_label_and_convert.py")

    energy, forces = numbers(r"energy (\S+) meV/atom, forces (\S+) meV/Å", run(folder, "02_train.py"))
    assert energy < 20
    assert forces < 100
    assert "best model: output/train-yaml/best.safetensors" in run(folder, "02_train.yaml")

    out = run(folder, "03_freeze_and_ase.py")
    assert len(re.findall(r"^  \w+_vs_\w+: ", out, re.MULTILINE)) == 5
    constant, pressure = numbers(r"lattice constant (\S+) Å .*, pressure (\S+) GPa", out)
    assert constant == pytest.approx(3.615, abs=0.03)
    assert abs(pressure) < 0.2
    assert abs(numbers(r"changed by (\S+) µeV/atom", out)[0]) < 2000
    near, far = (numbers(rf"rattled by {a} Å: .* up to (\S+) eV/Å", out)[0] for a in (0.05, 0.3))
    assert near < far

    out = run(folder, "04_lammps/in.lammps")
    assert "on 2 procs for 100 steps with 256 atoms" in out
    out = run(folder, "04_lammps.py")
    energies = [float(e) for e in re.findall(r"Å: (\S+) eV/atom", out)]
    assert len(energies) == 5
    assert min(energies) == energies[2]

    out = run(folder, "05_mpi4py.py")
    rows = re.findall(r"ranks \[(\d+), (\d+)\]: +(\S+) K, (\S+) eV", out)
    assert [int(a) + int(b) for a, b, *_ in rows] == [256] * 5
    totals = [float(row[3]) for row in rows]
    assert max(totals) - min(totals) < 256 * 2e-3
    cold, hot = numbers(r"300 K on 1 rank: (\S+) eV/atom\n900 K on 1 rank: (\S+) eV/atom", out)
    assert cold < hot < cold + 0.3
    assert numbers(r"21 structures on 2 ranks: lowest energy at a = (\S+) Å", out)[0] == pytest.approx(3.615, abs=0.06)

    assert "cu: 5 done" in run(folder, "06_workflow.yaml")
    assert "cu: nothing to do, all 5 stages are done" in run(folder, "06_workflow.yaml")
    for command in re.findall(r"^# +(dpsim .*?)(?:  .*)?$", (folder / "06_workflow.yaml").read_text(), re.MULTILINE):
        done = start(folder, *shlex.split(command))
        assert done.returncode == 0, done.stderr
        assert "model" in done.stdout or "cu: " in done.stdout

    out = run(folder, "07_phonons.py")
    top = max(float(value) for value in re.findall(r"-?\d+\.\d\d", out))
    assert 6 < top < 10
    assert all(abs(value) < 0.05 for value in numbers(r"Γ +(\S+) +(\S+) +(\S+)", out))

    out = run(folder, "08_finetune.py")
    before, after = numbers(r"energy of Cu: (\S+) -> (\S+) eV", out)
    assert after - before == pytest.approx(3.53, abs=0.05)
    before, after = numbers(r"forces of the new reference: (\S+) -> (\S+) meV/Å", out)
    assert after < before < 100
    energies = [numbers(rf"head {head}: (\S+) eV/atom", out)[0] for head in ("eam", "emt")]
    assert energies == pytest.approx([-3.54, 0.0], abs=0.05)

    out = run(folder, "09_parallel_training.py")
    assert out.count("2 processes, 8 frames a step") == 1
    assert numbers(r"forces (\S+) meV/Å", out)[0] < 700
