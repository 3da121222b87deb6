"""Checks that a model survives its file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dpsim.calculators.evaluate import load
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.testing.subject import ContractError, Subject


def check_file_round_trip(subject: Subject) -> None:
    """A model written and read has the same settings, the same digest and the same bits of every result."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(subject.model, Path(folder) / "model.safetensors")
        read = load_model(path)
        potential = load(path, device="cpu")
    if read.config != subject.model.config:
        raise ContractError(
            f"settings read from the file {read.config} differ from those written {subject.model.config}"
        )
    if state_digest(read) != state_digest(subject.model):
        raise ContractError("the digest of the model read from the file differs from that of the model written")
    for name, structure in subject.samples().items():
        found, expected = potential.evaluate(**subject.frame(structure)), subject.evaluate(structure)
        subject.agree_all(f"{name} with the model read from the file", found, expected, relative=0.0)
