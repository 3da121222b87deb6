"""What the tests of bad input share: a folder of good input to spoil, and small models."""

from __future__ import annotations

from pathlib import Path

import pytest
from acceptance_commands import TRAIN, write_structures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good input: ``good.extxyz``, the data set ``data``, and ``train.yaml``."""
    from data_tools.convert import convert

    write_structures(tmp_path / "good.extxyz")
    convert([str(tmp_path / "good.extxyz")], tmp_path / "data", type_map=["O", "H"])
    (tmp_path / "train.yaml").write_text(TRAIN)
    return tmp_path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows O and H."""
    from dpsim.model.checkpoint import save_model
    from dpsim.model.config import ModelConfig

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(ModelConfig.tiny().build(seed=1), path)
    return path


@pytest.fixture(scope="session")
def frozen() -> Path:
    """The same, frozen: the model that ``dpsim doctor`` tries LAMMPS with, made once for a version of the sources."""
    from dpsim.lammps.trial import tiny_model
    from dpsim.native.build import ensure

    ensure("plugin")
    return tiny_model()


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a machine with an empty PATH and an empty cache."""
    home = tmp_path_factory.mktemp("home")
    (home / "bin").mkdir()
    return {"PATH": str(home / "bin"), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
