"""Data sets of seed structures: built, labelled, converted, cleaned, and handed to another program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from dpsim.workflow.driver.outcome import Outcome
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load

Write = Callable[..., Path]
Run = Callable[..., Outcome]
SEEDS = """
dpsim: 1
type_map: [Cu]
stages:
  label:
    uses: label
    structures:
      - prototype: fcc
        element: Cu
        surface: {miller: [1, 0, 0], layers: 2, vacuum: 8 angstrom}
        rattle: 0.1 angstrom
        count: 3
      - {prototype: fcc, element: Cu, cluster: 3 angstrom, rattle: 0.1 angstrom, count: 2}
      - {dimer: [Cu, Cu], distance: [1 angstrom, 4 angstrom], count: 16}
      - {dimer: [Cu, Cu], distance: [2.001 angstrom, 2.001 angstrom], count: 1}
      - {atom: Cu}
    calculator: {name: emt}
    properties: [energy, forces]
  data: {uses: convert, from: label.frames}
  check:
    uses: inspect
    from: data
    drop: [near_duplicate, too_close]
    dedupe: {tol: 0.01 angstrom}
    warn_on: {min_distance: 1.5 angstrom}
  given: {uses: convert, from: check.clean, format: extxyz, split: {train: 0.8, test: 0.2}}
"""


def test_seed_structures_become_a_clean_set(write: Write, run: Run, tmp_path: Path) -> None:
    outcome = run(write(SEEDS))
    assert outcome.code == 0, outcome.failures
    stages = tmp_path / "run" / "stages"
    found = json.loads((stages / "check/out/inspect.json").read_text())
    # of the pairs 1.0, 1.2, 1.4 Å are too close; 2.001 Å is nearly 2.0 Å
    assert found["removed"] == {"total": 4, "too_close": 3, "duplicate": 0, "near_duplicate": 1}
    assert found["kept"] == {".": 19}
    frames = [a for part in ("train", "test") for a in read(stages / "given/out" / part / "frames.extxyz", ":")]
    assert len(frames) == 19
    assert sorted(len(atoms) for atoms in frames) == [1, *[2] * 13, 8, 8, 8, 13, 13]
    assert all(np.isfinite(atoms.info["REF_energy"]) and atoms.has("REF_forces") for atoms in frames)
    assert "clean: frames 19; taken out: 3 as too_close, 1 as near_duplicate" in (stages / "check/log.txt").read_text()


def test_an_output_that_an_option_gives_is_named(write: Write) -> None:
    path = write(SEEDS.replace("    drop: [near_duplicate, too_close]\n", ""))
    with pytest.raises(InvalidWorkflow) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.code == "E304"
    assert "a stage of this type has 'clean' if it has 'drop'" in problem.notes
