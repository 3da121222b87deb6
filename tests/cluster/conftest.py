"""A Slurm of its own for the tests of this folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("slurm_of_tests", Path(__file__).with_name("slurm.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running Slurm with two nodes; skips with the reason where there can be none."""
    module = _module()
    if reason := module.missing():
        pytest.skip(f"no Slurm: {reason}")
    if importlib.util.find_spec("dpdispatcher") is None:
        pytest.skip("dpdispatcher is not installed")
    found = module.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()
