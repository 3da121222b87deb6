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
