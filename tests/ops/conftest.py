"""The native operators, loaded, and the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from dpsim import ops


@pytest.fixture(scope="session", autouse=True)
def _native() -> None:
    """Build and load the operators; without a compiler there is nothing to test here."""
    if not ops.load():
        pytest.skip(f"native operators: {ops.unavailable_reason()}")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
