"""``dpsim doctor`` on good and on broken installations: what is wrong is found, named and has its cure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from ensembles import with_header

from dpsim.lammps import Check, diagnose, doctor
from dpsim.lammps.builds import _sources_key
from dpsim.lammps.packages import lammps_program, mpich_file
from dpsim.native.identity import torch_build

pytestmark = pytest.mark.lammps


def _named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_packages(model64: Path) -> None:
    checks = diagnose(model=model64)
    assert [c for c in checks if not c.ok] == []
    found = _named(checks)
    assert list(found)[-3:] == ["model", "step on 1 rank", "step on 2 ranks"]
    assert re.search(r"float64 on cpu, O H, by dpsim .*, digest [0-9a-f]{8}", found["model"].found)
    assert found["step on 1 rank"].found == found["step on 2 ranks"].found
    assert re.fullmatch(r"energy -?\d+\.\d{6} eV", found["step on 1 rank"].found)


# ---- a LAMMPS of the user's own, of which the packages' is the core -----------------------------


class Own:
    """A script that starts LAMMPS, one that starts ranks, and a cache with a plugin for them."""

    def __init__(self, folder: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.lmp = self.script(
            "lmp", f'LD_LIBRARY_PATH="{mpich_file("libmpi.so.12").parent}" exec "{lammps_program()}" "$@"'
        )
        self.mpirun = self.script("mpirun", f'exec "{mpich_file("mpiexec")}" "$@"')
        self.build = folder / "cache" / "dpsim" / "native" / "plugin-source-0123456789abcdef"
        self.build.mkdir(parents=True)
        for path in plugin.glob("*.so"):
            (self.build / path.name).symlink_to(path.resolve())
        self.facts(lammps="22 Jul 2025", definitions="LAMMPS_SMALLBIG", torch=torch_build(), sources=_sources_key(),
                   source="/there/lammps/src", mpicxx="mpicxx")  # fmt: skip
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def script(self, name: str, line: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    def facts(self, **changed: str) -> None:
        mark = self.build / "build.json"
        mark.write_text(json.dumps({**(json.loads(mark.read_text()) if mark.exists() else {}), **changed}))


@pytest.fixture
def own(plugin: Path, model64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    return Own(tmp_path, plugin, monkeypatch)


def test_a_good_lammps_of_the_user(own: Own, model64: Path) -> None:
    checks = diagnose(lmp=own.lmp, mpirun=own.mpirun, model=model64)
    assert [c for c in checks if not c.ok] == []
    found = _named(checks)
    assert "22 Jul 2025" in found["LAMMPS"].found
    assert "LAMMPS_SMALLBIG" in found["LAMMPS"].found
    assert found["mpirun"].found == f"{own.mpirun} (MPICH)"
    assert found["plugin"].fix == f'in the input: plugin load "{own.build / "dpsimplugin.so"}"'
    assert found["step on 2 ranks"].found.startswith("energy")


def _other_mpi(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.script("mpirun", "echo 'mpirun (Open MPI) 4.1.4'")
    return model


def _ranks_alone(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.script("mpirun", '[ "$1" = --version ] && echo HYDRA && exit\nshift 2\n"$@"\n"$@"')
    return model


def _other_torch(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.facts(torch="2.1.0+cpu cuda=None")
    return model


def _other_sources(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.facts(sources="0" * 16)
    return model


def _other_lammps(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.facts(lammps="2 Aug 2023")
    return model


def _other_sizes(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.facts(definitions="LAMMPS_BIGBIG")
    return model


def _no_lammps(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own.script("lmp", "echo 'lmp: error while loading shared libraries: liblammps.so.0' >&2; exit 127")
    return model


def _newer_format(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return with_header(model, folder / "newer.pt2", {"format": 99})


def _model_of_other_torch(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return with_header(model, folder / "older.pt2", {"torch": "2.1.0"})


def _no_compiler(own: Own, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXX", "no-such-compiler")
    return model


Break = Callable[[Own, Path, Path, pytest.MonkeyPatch], Path]
STEPS = {"step on 1 rank": ("", ""), "step on 2 ranks": ("", "")}
EVERYTHING = ("LAMMPS", "mpirun", "plugin", "step on 1 rank", "step on 2 ranks")
ALONE = "so that every rank would be a run of its own"
BROKEN: dict[str, tuple[Break, dict[str, tuple[str, str]]]] = {
    "mpirun of another MPI": (
        _other_mpi,
        {"mpirun": (rf"is of Open MPI but \S+ runs on MPICH, {ALONE}", r"^\S+mpi(run|exec) -n RANKS \S+lmp -in INPUT$"),
         "step on 2 ranks": (ALONE, "-n RANKS")},
    ),
    "ranks that are runs of their own": (
        _ranks_alone, {"step on 2 ranks": (r"mpirun made 2 runs of 1 rank each instead of one of 2", "")}
    ),
    "plugin of another torch": (
        _other_torch,
        {"plugin": (r"was built for torch 2\.1\.0\+cpu cuda=None, here is torch 2",
                    r"dpsim lammps build --lammps-source /there/lammps/src --lmp \S+lmp --mpicxx mpicxx --force"),
         "step on 1 rank": ("there is no plugin for ", "see the check of the plugin in: dpsim doctor --lmp"),
         "step on 2 ranks": ("there is no plugin for ", "see the check of the plugin in: dpsim doctor --lmp")},
    ),
    "plugin of another dpsim": (
        _other_sources, {"plugin": ("by another version of dpsim", "--force"), **STEPS}
    ),
    "plugin of another LAMMPS": (
        _other_lammps,
        {"plugin": (r"none for LAMMPS 22 Jul 2025 with MPICH 5", "dpsim lammps build --lammps-source DIR --lmp"),
         **STEPS},
    ),
    "plugin of other integers": (
        _other_sizes, {"plugin": ("there is none", "dpsim lammps build"), **STEPS}
    ),
    "LAMMPS that does not start": (
        _no_lammps,
        dict.fromkeys(
            EVERYTHING, (r"does not start as LAMMPS \(lmp: error while loading shared libraries", "give the path")
        ),
    ),
    "model of a newer format": (
        _newer_format,
        {
            "model": (r"newer\.pt2: frozen format 99 is not known to this dpsim", "dpsim freeze MODEL -o .*newer.pt2"),
            "step on 1 rank": ("format 99", "see the failed checks above"),
            "step on 2 ranks": ("format 99", "see the failed checks above"),
        },
    ),
    "model of another torch": (
        _model_of_other_torch,
        {"model": (r"was frozen with torch 2\.1\.0, here is torch 2", "dpsim freeze MODEL -o"),
         "step on 1 rank": (r"was frozen with torch 2\.1\.0", "freeze the model again"),
         "step on 2 ranks": (r"was frozen with torch 2\.1\.0", "freeze the model again")},
    ),
    "no compiler": (_no_compiler, {"C++ compiler": ("no-such-compiler", "set it to a C\\+\\+ compiler or unset it")}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_lammps_of_the_user(
    name: str, own: Own, model64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = BROKEN[name]
    model = change(own, model64, tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", f"{mpich_file('mpiexec').parent}{os.pathsep}{os.environ['PATH']}")
    failed = {c.name: c for c in diagnose(lmp=own.lmp, mpirun=own.mpirun, model=model) if not c.ok}
    assert set(failed) == set(expected), failed
    for check, (found, fix) in expected.items():
        assert re.search(found, failed[check].found), failed[check]
        assert re.search(fix, failed[check].fix), failed[check]


# ---- the packages, broken -----------------------------------------------------------------------


def test_mpi4py_is_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._mpi4py()
    (tmp_path / "mpi4py.py").write_text("raise SystemExit('this script was imported')\n")
    monkeypatch.chdir(tmp_path)
    assert doctor._mpi4py() == found


def test_a_plugin_that_an_earlier_torch_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build.json").write_text('{"torch": "2.1.0+cpu cuda=None"}')
    (tmp_path / "dpsimplugin.so").touch()
    monkeypatch.setenv("LAMMPS_PLUGIN_PATH", str(tmp_path))
    check = _named(diagnose(step=False))["LAMMPS_PLUGIN_PATH"]
    assert not check.ok
    assert check.found.startswith("names a plugin for torch 2.1.0+cpu cuda=None, here is torch 2.")
    assert check.fix == "unset LAMMPS_PLUGIN_PATH"


def test_no_compiler_for_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check = _named(diagnose(step=False))["C++ compiler"]
    assert not check.ok
    assert "no-such-compiler" in check.found
    assert check.fix == "set it to a C++ compiler or unset it"


def test_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_text("no model")
    failed = {c.name: c for c in diagnose(model=tmp_path / "broken.pt2") if not c.ok}
    assert set(failed) == {"model", "step on 1 rank", "step on 2 ranks"}
    assert failed["model"].fix == f"dpsim freeze MODEL -o {tmp_path / 'broken.pt2'}"


def test_command_line(own: Own, model64: Path) -> None:
    from dpsim.cli.installation.doctor import command

    words = ["--lmp", str(own.lmp), "--mpirun", str(own.mpirun), "--model", str(model64), "--no-step"]
    result = CliRunner().invoke(command, words, standalone_mode=False)
    assert result.return_value == 0
    assert result.stdout.splitlines()[-1] == "8 of 8 checks passed"
    _other_torch(own, model64, own.folder, pytest.MonkeyPatch())
    result = CliRunner().invoke(command, words, standalone_mode=False)
    assert result.return_value == 6
    assert "mend it with: dpsim lammps build --lammps-source /there/lammps/src" in result.stdout
    assert CliRunner().invoke(command, ["--mpirun", "x"]).exit_code == 2
