"""What a native build is keyed by."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpsim.errors import SetupError
from dpsim.native import identity


def test_sources_are_complete() -> None:
    names = {str(path.relative_to(identity.source_dir())) for path in identity.sources("ops")}
    assert {"CMakeLists.txt", "ops/ops.cpp", "halo/registry.h", "halo/registry.cpp", "kernels/kernels.h"} <= names
    assert set(identity.sources("ops")) <= set(identity.sources("plugin"))


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source folder that may be changed."""
    for path in identity.sources("plugin"):
        copy = tmp_path / path.relative_to(identity.source_dir())
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(identity, "source_dir", lambda: tmp_path)
    return tmp_path


def test_key_follows_the_sources(copied: Path) -> None:
    ops, plugin = identity.base_key("ops"), identity.base_key("plugin")
    assert ops != plugin
    (copied / "pair" / "extra.cpp").write_text("// part of the plugin alone\n")
    assert identity.base_key("ops") == ops
    assert identity.base_key("plugin") != plugin
    (copied / "ops" / "ops.cpp").write_text("// changed\n")
    assert identity.base_key("ops") != ops


@pytest.mark.parametrize("function", ["torch_build", "isa_level"])
def test_key_follows_torch_and_processor(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity.base_key("ops")
    monkeypatch.setattr(identity, function, lambda: "another")
    assert identity.base_key("ops") != before


def test_plugin_key_follows_lammps_and_mpich(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {target: identity.base_key(target) for target in identity.TARGETS}
    monkeypatch.setattr(identity.metadata, "version", lambda name: "99")
    assert identity.base_key("plugin") != before["plugin"]
    assert identity.base_key("ops") == before["ops"]


def test_torch_build_is_that_of_the_imported_torch() -> None:
    import torch

    assert identity.torch_build() == f"{torch.__version__} cuda={torch.version.cuda}"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu avx2 fma avx512f avx512dq avx512vl avx512bw", "avx512"),
        ("fpu avx2 fma avx512f", "avx2"),
        ("fpu sse2", "default"),
    ],
)
def test_instruction_set(flags: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: none\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert identity.isa_level() == level


def test_compiler_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    name = identity.find_compiler().command[0]
    monkeypatch.setenv("CXX", f"{name} -pipe")
    assert identity.find_compiler().command == (name, "-pipe")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match=r"CXX is 'no-such-compiler', which is not on the PATH"):
        identity.find_compiler()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(SetupError, match="the C\\+\\+ compiler false does not run"):
        identity.find_compiler()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"none of c\+\+, g\+\+, clang\+\+ is on the PATH; install one"):
        identity.find_compiler()
