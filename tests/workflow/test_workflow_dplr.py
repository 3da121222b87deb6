"""A train stage with electrostatics: its dipole model is an input like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load

WORKFLOW = """\
dpsim: 1
type_map: [O, H]
stages:
  wannier:
    uses: train
    data: {path: water}
    steps: 10
    model:
      descriptor: {type: dpa3, repflow: {e_rcut: 4.0, e_rcut_smth: 3.0, a_rcut: 3.0, a_rcut_smth: 2.0}}
      fitting: {type: dipole}
    loss: {type: tensor, atomic: 1.0}
  model:
    uses: train
    data: {path: water}
    steps: 100
    model:
      type: dplr
      model: dpa3-tiny
      dipole: DIPOLE
      model_charge_map: {O: -8}
      sys_charge_map: {O: 6, H: 1}
"""


def plan(folder: Path, dipole: str):
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("DIPOLE", dipole))
    return load(folder / "workflow.yaml", check_files=False)


def links(folder: Path, dipole: str):
    found = plan(folder, dipole)
    return [link for link in found.links["model"] if link.slot == "dipole"]


def test_output_of_a_stage(tmp_path):
    (link,) = links(tmp_path, "wannier.best")
    assert link.path == ("model", "dipole")
    assert plan(tmp_path, "wannier").order == ("wannier", "model")
    options = plan(tmp_path, "wannier").workflow.tasks["model"].config.key_options()
    assert options["model"]["dipole"] == "<input>"


def test_a_file(tmp_path):
    (link,) = links(tmp_path, "dw.safetensors")
    assert link.patterns == ("dw.safetensors",)


def test_an_output_that_holds_no_weights(tmp_path):
    with pytest.raises(InvalidWorkflow, match="curve"):
        plan(tmp_path, "wannier.curve")


def test_modifier_of_deepmd(tmp_path):
    """The section as DeePMD-kit has it; the name of the dipole model is relative to the file."""
    section = {
        "descriptor": {"type": "se_e2_a", "sel": [40, 60], "rcut": 6.0, "rcut_smth": 1.0},
        "fitting_net": {"neuron": [8]},
        "modifier": {
            "type": "dipole_charge", "model_name": "dw.dp", "model_charge_map": [-8],
            "sys_charge_map": [6, 1], "ewald_h": 0.9, "ewald_beta": 0.5,
        },
    }  # fmt: skip
    document = {
        "dpsim": 1, "type_map": ["O", "H"],
        "stages": {"model": {"uses": "train", "data": {"path": "water"}, "steps": 5, "model": section}},
    }  # fmt: skip
    (tmp_path / "workflow.yaml").write_text(json.dumps(document))
    stage = load(tmp_path / "workflow.yaml", check_files=False).workflow.tasks["model"].config
    assert stage.model.type == "dplr"
    assert Path(stage.model.dipole) == (tmp_path / "dw.dp").resolve()
    assert (stage.model.model_charge_map, stage.model.sys_charge_map) == ((-8.0,), (6.0, 1.0))
    assert (stage.model.ewald_h, stage.model.ewald_beta) == (0.9, 0.5)
    assert stage.model.model.descriptor.type == "se_e2_a"
    section["modifier"]["more"] = 1
    (tmp_path / "workflow.yaml").write_text(json.dumps(document))
    with pytest.raises(InvalidWorkflow, match=r"model\.modifier: the key 'more' is not known"):
        load(tmp_path / "workflow.yaml", check_files=False)
