"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data that lies beside the project for its developers."""
    if not SHARED.is_dir():
        pytest.skip("the developers' folder of reference data (../shared) is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Folder of models with random parameters and the peer's numbers."""
    return shared / "golden"


@pytest.fixture(scope="session")
def pair_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose physics is known: Lennard-Jones, as a table, with the lattice constant of copper."""
    import numpy as np

    from dpsim.model.checkpoint import save_model
    from dpsim.model.compose.config import PairTableConfig

    folder = tmp_path_factory.mktemp("pair-model")
    r = np.arange(1.2, 5.505, 0.01)
    ratio = (2.338 / r) ** 6
    np.savetxt(folder / "table.txt", np.column_stack([r, 4 * 0.409 * (ratio**2 - ratio)]), fmt="%.17g")
    config = PairTableConfig.from_file(folder / "table.txt", ("Cu",), rcut=6.0, sel=120)
    return save_model(config.build(0), folder / "pair.safetensors")
