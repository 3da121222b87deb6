"""Tables of pair energies that a train stage names: read when the file is checked, so that the key knows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.language.schema import read_workflow

WORKFLOW = """\
dpsim: 1
type_map: [O, H]
stages:
  model:
    uses: train
    data: {path: water}
    steps: 100
    model: {type: zbl, model: dpa3-tiny, table: zbl.txt, sw_rmin: 0.8, sw_rmax: 1.6}
"""


def options(path: Path) -> dict:
    workflow = read_workflow(path)
    workflow.collector.check()
    return workflow.tasks["model"].config.key_options()


def written(folder: Path, strength: float) -> Path:
    r = 0.1 * np.arange(1, 40)
    np.savetxt(folder / "zbl.txt", np.column_stack([r, *[strength * np.exp(-r)] * 3]))
    (folder / "workflow.yaml").write_text(WORKFLOW)
    return folder / "workflow.yaml"


def test_the_key_depends_on_the_numbers_not_on_the_name(tmp_path):
    first = options(written(tmp_path, 1.0))
    assert options(written(tmp_path, 1.0)) == first
    assert options(written(tmp_path, 2.0)) != first
    assert len(first["model"]["table"]["table"]) == 39


def test_a_missing_table_is_reported_with_the_rest(tmp_path):
    path = written(tmp_path, 1.0)
    (tmp_path / "zbl.txt").unlink()
    with pytest.raises(InvalidWorkflow, match=r"zbl\.txt: there is no such table of pair energies"):
        options(path)
