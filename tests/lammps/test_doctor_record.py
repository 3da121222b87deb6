"""The page that shows what ``dpsim doctor`` prints on a good and on three broken installations is what it prints.

A page that is not there is written: delete it and run this test to make it anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_doctor import BROKEN, Own

from dpsim.cli.installation.doctor import command
from dpsim.lammps.packages import lammps_program, mpich_file

pytestmark = pytest.mark.lammps

PAGE = Path(__file__).parents[2] / "workflows" / "reference" / "help" / "doctor.md"
HEAD = """\
# When LAMMPS does not run

`dpsim doctor` checks the chain from Python over torch, the compiler, LAMMPS and MPI to the plugin and the model, takes
a step in the very `lmp` that will be used, on one rank and on two, and prints the command that mends what is wrong
(exit code 6). Below is what it prints for a LAMMPS of one's own; without `--lmp` it checks that of the Python
environment. `--lammps` and `--mpi` print those parts alone; `--gpu` checks driver, torch and each GPU, `--slurm` the
cluster.
"""
SHOWN = {
    "A good installation": None,
    "The plugin was built for another torch": "plugin of another torch",
    "`mpirun` belongs to another MPI": "mpirun of another MPI",
    "The model was frozen with another torch": "model of another torch",
}


def _printed(own: Own, model: Path, folder: Path, environment: Path) -> str:
    words = ["--lmp", str(own.lmp), "--mpirun", str(own.mpirun), "--model", str(model)]
    result = CliRunner().invoke(command, words, standalone_mode=False)
    text = f"$ dpsim doctor --lmp ~/lammps/lmp --mpirun ~/lammps/mpirun --model {model.name}\n{result.stdout}"
    text += f"exit code {result.return_value}"
    places = {
        str(own.folder): "~/lammps", str(mpich_file("mpiexec")): "~/venv/bin/mpiexec",
        str(lammps_program()): "~/venv/bin/lmp", str(environment): "~/venv", str(model.parent): "~",
        sys.executable: "~/venv/bin/python",
    }  # fmt: skip
    if model.parent == own.folder:
        places[str(own.folder)] = "~/lammps"
    for place, name in places.items():
        text = text.replace(place, name)
    text = re.sub(r"\((?:\S+/)?(\w+\.cpp:\d+)\)", r"(\1)", text)
    text = re.sub(r"digest [0-9a-f]+", "digest 0123abcd", text)
    text = re.sub(r"energy -?[\d.]+ eV", "energy -12.345678 eV", text)
    return re.sub(r"tiny-float64-[0-9a-f]+", "model", text)


def _bare(text: str) -> str:
    """Text without what differs between machines: numbers, paths, spaces."""
    text = re.sub(r"C\+\+ compiler .*", "C++ compiler", text)
    text = re.sub(r"(~|/)[^\s)\"',;]*", "PATH", text)
    return re.sub(r"\s+", " ", re.sub(r"[\d.]+(\+\w+)?", "0", text))


def test_the_page_is_what_is_printed(
    plugin: Path, model64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [HEAD]
    for title, broken in SHOWN.items():
        folder = tmp_path / title.split()[1]
        folder.mkdir()
        own, model = Own(folder, plugin, monkeypatch), model64
        if broken is not None:
            model = BROKEN[broken][0](own, model64, folder, monkeypatch)
        text = _printed(own, model, folder, Path(sys.prefix))
        assert text.endswith(f"exit code {0 if broken is None else 6}")
        parts.append(f"\n## {title}\n\n```\n{text}\n```\n")
    page = "".join(parts)
    if not PAGE.exists():
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        pytest.fail(f"{PAGE} was written: look at it and keep it")
    assert _bare(PAGE.read_text(encoding="utf-8")) == _bare(page)
