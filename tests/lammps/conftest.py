"""The plugin and two tiny frozen models, made once and kept while the sources they come from stay the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

ROOMS = ("descriptors", "fittings", "model", "physics", "nn", "ops", "export")


def _sources_digest() -> str:
    import torch

    import dpsim
    from dpsim.native.identity import base_key

    digest = hashlib.sha256(f"{torch.__version__} {base_key('ops')}".encode())
    for path in sorted(p for room in ROOMS for p in (Path(dpsim.__file__).parent / room).rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def plugin() -> Path:
    """Folder of the built plugin."""
    from dpsim.native.build import ensure

    return ensure("plugin")


@pytest.fixture(scope="session")
def eager():
    """The tiny model in float64, not compiled: the reference."""
    from dpsim.calculators.engines import ModuleEngine
    from dpsim.calculators.evaluate import Potential

    return Potential(ModuleEngine(_tiny(), "cpu"), "tiny")


def _tiny():
    from dpsim.model.config import ModelConfig

    return ModelConfig.tiny().build(seed=1).with_precision("float64")


def _frozen(request: pytest.FixtureRequest, precision: str) -> Path:
    from dpsim.export.compile import compile_model

    folder = request.config.cache.mkdir("dpsim-models")
    path = folder / f"tiny-{precision}-{_sources_digest()}.pt2"
    if not path.is_file():
        for old in folder.glob(f"tiny-{precision}-*.pt2"):
            old.unlink()
        compile_model(_tiny().with_precision(precision), path)
    return path


@pytest.fixture(scope="session")
def model64(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny model frozen in float64."""
    return _frozen(request, "float64")


@pytest.fixture(scope="session")
def model32(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """The tiny model frozen in float32."""
    return _frozen(request, "float32")
