"""``system.predict(driver="dpsim")`` of dpdata."""

from __future__ import annotations

import subprocess
import sys

import dpdata
import numpy as np
import pytest

from dpsim.calculators.evaluate import load
from dpsim.errors import ModelError
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig

COORDS = np.random.default_rng(0).uniform(0, 3.5, (2, 3, 3))
CELLS = np.array([np.eye(3) * 4.0, np.diag([4.0, 4.2, 4.4])])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(ModelConfig.tiny().build(), tmp_path_factory.mktemp("model") / "tiny.safetensors")


def system(nopbc=False, names=("H", "O")):
    data = {
        "atom_names": list(names),
        "atom_numbs": [2, 1],
        "atom_types": np.array([1, 0, 0]),
        "coords": COORDS,
        "cells": CELLS,
        "orig": np.zeros(3),
    }
    return dpdata.System(data={**data, "nopbc": True} if nopbc else data)


@pytest.mark.parametrize("nopbc", [False, True])
def test_predict(model, nopbc):
    labelled = system(nopbc).predict(str(model), driver="dpsim", device="cpu")
    assert isinstance(labelled, dpdata.LabeledSystem)
    potential = load(model)
    for index in range(2):
        expected = potential.evaluate(labelled["coords"][index], ["O", "H", "H"], None if nopbc else CELLS[index])
        assert labelled["energies"][index] == pytest.approx(expected.energy, rel=1e-14)
        np.testing.assert_allclose(labelled["forces"][index], expected.forces, atol=1e-14)
        if not nopbc:
            np.testing.assert_allclose(labelled["virials"][index], expected.virial, atol=1e-14)
    assert ("virials" in labelled.data) == (not nopbc)


def test_labels_can_be_written_and_read(model, tmp_path):
    labelled = system().predict(str(model), driver="dpsim")
    labelled.to("deepmd/npy", str(tmp_path / "set"))
    again = dpdata.LabeledSystem(str(tmp_path / "set"), fmt="deepmd/npy")
    np.testing.assert_allclose(again["virials"], labelled["virials"], atol=1e-6)


def test_unknown_element(model):
    with pytest.raises(ModelError, match="element 'C' is not in the model's type map"):
        system(names=("H", "C")).predict(str(model), driver="dpsim")


def test_the_driver_is_found_by_its_entry_point():
    code = "import dpdata; from dpdata.driver import Driver; print(Driver.get_driver('dpsim').__name__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "DPSimDriver"
