"""Building the plugin for a LAMMPS that the user built from source."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_runs import run_program

from dpsim.errors import SetupError
from dpsim.lammps import lammps_command
from dpsim.lammps.builds import build_for_source
from dpsim.lammps.packages import mpich_file
from dpsim.lammps.programs import family, inspect
from dpsim.native.build import cache_dir, ensure

pytestmark = pytest.mark.lammps

HELP = """
Large-scale Atomic/Molecular Massively Parallel Simulator - {version}

MPI v3.1: {mpi}

-DLAMMPS_BIGBIG
sizeof(smallint): 32-bit
sizeof(imageint): 64-bit
sizeof(tagint):   {bits}-bit
sizeof(bigint):   64-bit

Installed packages:

MOLECULE {package}

List of individual style options included in this LAMMPS executable
"""


def script(path: Path, line: str) -> Path:
    """An executable of one line."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What must at least be there of a source tree."""
    (tmp_path / "lammps" / "src").mkdir(parents=True)
    (tmp_path / "lammps" / "src" / "pair.h").touch()
    (tmp_path / "lammps" / "src" / "version.h").write_text('#define LAMMPS_VERSION "4 Feb 2025"\n')
    return tmp_path / "lammps"


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """A program that says what a LAMMPS says."""

    def make(
        version: str = "4 Feb 2025", mpi: str = "Open MPI v4.1.4, package: x", bits: int = 64, package: str = "PLUGIN"
    ) -> Path:
        text = HELP.format(version=version, mpi=mpi, bits=bits, package=package)
        return script(tmp_path / "lmp", f"cat << 'END'\n{text}END")

    return make


def test_what_a_program_says(program: Callable[..., Path]) -> None:
    found = inspect(program())
    assert (found.version, found.mpi, found.family, found.sizes) == (
        "4 Feb 2025",
        "Open MPI v4.1.4",
        "Open MPI",
        "LAMMPS_BIGBIG",
    )
    assert found.packages == {"MOLECULE", "PLUGIN"}
    found = inspect(program(mpi="MPICH Version:      5.0.2", bits=32))
    assert (found.mpi, found.family, found.sizes) == ("MPICH 5.0.2", "MPICH", "LAMMPS_SMALLBIG")
    said = ("mpirun (Open MPI) 4.1.4", "HYDRA build details:", "Intel(R) MPI Library", "")
    assert [family(text) for text in said] == ["Open MPI", "MPICH", "MPICH", "unknown"]


def _no_tree(tree: Path, program: Callable[..., Path]) -> dict:
    shutil.rmtree(tree / "src")
    return {}


def _old_version(tree: Path, program: Callable[..., Path]) -> dict:
    (tree / "src" / "version.h").write_text('#define LAMMPS_VERSION "29 Sep 2021"\n')
    return {}


def _other_version(tree: Path, program: Callable[..., Path]) -> dict:
    return {"lmp": program("2 Aug 2023")}


def _no_package(tree: Path, program: Callable[..., Path]) -> dict:
    return {"lmp": program(package="KSPACE")}


def _other_sizes(tree: Path, program: Callable[..., Path]) -> dict:
    return {"lmp": program(), "definitions": ["LAMMPS_SMALLBIG", "OTHER"]}


def _no_mpi(tree: Path, program: Callable[..., Path]) -> dict:
    return {"mpicxx": "nowhere-mpicxx"}


def _no_headers(tree: Path, program: Callable[..., Path]) -> dict:
    return {"mpicxx": str(script(tree / "mpicxx", "echo 'mpi.h: No such file or directory' >&2; exit 1"))}


def _no_compiler(tree: Path, program: Callable[..., Path]) -> dict:
    return {"compiler": "no-such-compiler"}


WRONG = {
    "no tree": (_no_tree, r"is no LAMMPS source tree \(no src/pair.h and src/version.h\); give its top folder"),
    "old version": (_old_version, r"src is LAMMPS 29 Sep 2021; the plugin needs 23 Jun 2022 or later"),
    "another version": (
        _other_version,
        r"lmp is LAMMPS 2 Aug 2023, \S+src is 4 Feb 2025; give the tree it was made of",
    ),
    "no package": (_no_package, r"has no package PLUGIN and cannot load any; build it with -DPKG_PLUGIN=on"),
    "other sizes": (_other_sizes, r"integer sizes are LAMMPS_BIGBIG, --define says LAMMPS_SMALLBIG; leave it out"),
    "no MPI compiler": (_no_mpi, r"the MPI compiler nowhere-mpicxx is not on the PATH; give the one of your LAMMPS"),
    "no MPI headers": (_no_headers, r"no C\+\+ program with mpi.h .*the whole log is (\S+\.log)$"),
    "no compiler": (_no_compiler, r"CXX is 'no-such-compiler', which is not on the PATH; set it to a C\+\+ compiler"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_built(
    name: str, tree: Path, program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure("ops")
    change, sentence = WRONG[name]
    arguments = change(tree, program)
    if "compiler" in arguments:
        monkeypatch.setenv("CXX", arguments.pop("compiler"))
    before = set(cache_dir().glob("plugin-source-*/"))
    with pytest.raises(SetupError) as caught:
        build_for_source(tree, **{"mpicxx": str(mpich_file("mpicxx")), **arguments})
    found = re.search(sentence, str(caught.value))
    assert found, caught.value
    for log in map(Path, found.groups()):
        assert "MPI" in log.read_text()
        for rest in log.parent.glob(f"{log.stem}*"):
            rest.unlink()
    assert set(cache_dir().glob("plugin-source-*/")) == before


@pytest.mark.slow
def test_build_for_a_source_tree(tmp_path: Path) -> None:
    """Headers of the Python package stand in for a source tree; a wrong integer size is then refused by name."""
    import importlib.util

    spec = importlib.util.find_spec("lammps")
    assert spec is not None
    assert spec.origin is not None
    source = tmp_path / "lammps" / "src"
    source.parent.mkdir()
    source.symlink_to(tmp_path / "headers")
    shutil.copytree(Path(spec.origin).parent / "include" / "lammps", tmp_path / "headers")
    (source / "version.h").write_text('#define LAMMPS_VERSION "22 Jul 2025"\n')
    mpicxx = str(mpich_file("mpicxx"))
    folder = build_for_source(source.parent, mpicxx=mpicxx, definitions=["LAMMPS_BIGBIG"])
    try:
        assert (folder / "dpsimplugin.so").is_file()
        box = "region b block 0 9 0 9 0 9\ncreate_box 1 b\n"
        (tmp_path / "in.x").write_text(f"plugin load {folder / 'dpsimplugin.so'}\n{box}pair_style dpsim m.pt2\n")
        argv, env = lammps_command(1, tmp_path / "in.x", log="none", plugin=False)
        env.pop("LAMMPS_PLUGIN_PATH", None)
        code, text = run_program(argv, env, tmp_path, 60)
    finally:
        shutil.rmtree(folder)
    assert code != 0
    assert "built for atom ids of 8 bytes, this LAMMPS has 4" in text
