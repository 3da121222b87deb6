"""A frozen model and the processor it meets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dpsim import load
from dpsim.errors import SetupError


@pytest.fixture(scope="module")
def frozen() -> Path:
    """The model that ``dpsim doctor`` tries LAMMPS with."""
    from dpsim.lammps.trial import tiny_model

    return tiny_model()


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_a_processor_that_can_more_is_no_cause_for_a_warning(
    level: str, frozen: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"AOTI_PLATFORM": "linux", "AOTI_CPU_ISA": level.upper()}
    monkeypatch.setattr("torch._inductor.codecache.get_device_information", lambda device: said)
    monkeypatch.setattr("dpsim.calculators.engines.isa_level", lambda: level)
    logger = logging.getLogger("torch.export.pt2_archive._package")
    monkeypatch.setattr(logger, "propagate", True)
    before = list(logger.filters)
    load(frozen)
    assert caplog.records == []
    assert logger.filters == before
    said["AOTI_PLATFORM"] = "another"
    load(frozen)
    assert [record.args[0] for record in caplog.records] == ["AOTI_PLATFORM"]  # type: ignore[index]


def test_a_processor_that_can_less_is_refused(frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsim.calculators.engines.isa_level", lambda: "default")
    with pytest.raises(
        SetupError, match=r"was frozen for processors with AVX2, which this one lacks: freeze the model on"
    ):
        load(frozen)
