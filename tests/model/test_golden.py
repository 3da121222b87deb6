"""Models with random parameters against the numbers of the reference program (DeePMD-kit 3.2.0, float64).

All numbers agree to a few 1e-15; the tolerances are those that the project promises: 1e-10 for energies and
descriptors, 1e-9 of the largest component for forces and virial.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpsim.calculators.evaluate import load
from dpsim.errors import ModelError
from dpsim.model.checkpoint import state_digest
from dpsim.model.peer.convert import load_serialized

INDEX = Path(__file__).resolve().parents[3] / "shared" / "golden" / "index.json"
CASES = {case["name"]: case for case in json.loads(INDEX.read_text())["cases"]} if INDEX.is_file() else {}
UNSUPPORTED = {
    "dpa3_22_fparam_aparam": r"model\.fitting\.numb_fparam: 2 is not supported: only 0 is",
    "dpa3_26_chg_spin": r"model\.descriptor\.add_chg_spin_ebd: True is not supported: only False is",
    "dpa3_27_econf": r"model\.descriptor\.use_econf_tebd: True is not supported: only False is",
    "dpa1_01_noattn": r"model\.descriptor: descriptor type 'dpa1' is not supported yet: only 'dpa3' is",
    "dpa2_01_small_like": r"model\.descriptor: descriptor type 'dpa2' is not supported yet: only 'dpa3' is",
    "se_a_01": r"model\.descriptor: descriptor type 'se_e2_a' is not supported yet: only 'dpa3' is",
    "se_r_01": r"model\.descriptor: descriptor type 'se_r' is not supported yet: only 'dpa3' is",
    "se_t_01": r"model\.descriptor: descriptor type 'se_e3' is not supported yet: only 'dpa3' is",
    "se_t_tebd_01": r"model\.descriptor: descriptor type 'se_e3_tebd' is not supported yet: only 'dpa3' is",
    "hybrid_01": r"model\.descriptor: descriptor type 'hybrid' is not supported yet: only 'dpa3' is",
    "fit_dipole_03_dpa3": r"model\.fitting: fitting type 'dipole' is not supported yet: only 'ener' is",
    "zbl_02_dpa3": r"model\.type: 'zbl' is not supported: only 'standard' is",
    "spin_03_dpa3": r"model\.type: 'spin_ener' is not supported: only 'standard' is",
}
SUPPORTED = [name for name in CASES if name.startswith("dpa3_") and name not in UNSUPPORTED]
absent = pytest.mark.skip(reason="the developers' folder of reference data (../shared) is absent")


def names(found):
    return list(found) if CASES else [pytest.param("", marks=absent)]


def close(found, expected, relative, absolute=0.0):
    allowed = max(relative * np.abs(expected).max(initial=0.0), absolute)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0.0) <= allowed


def frames(case):
    """Of every structure: its id, and for each frame the arguments and the expected numbers."""
    data = np.load(INDEX.parent / case["data_file"])
    for structure in case["structures"]:
        at = structure["id"]
        for f in range(structure["nframes"]):
            values = {key.split("/")[1]: data[key][f] for key in data.files if key.startswith(f"{at}/")}
            arguments = {"positions": values["coord"], "types": values["atype"], "cell": values.get("cell")}
            yield arguments, values


@pytest.mark.parametrize("name", names(SUPPORTED))
def test_reference_numbers(name):
    potential = load(INDEX.parent / CASES[name]["model_files"][0], device="cpu")
    assert list(potential.type_map) == CASES[name]["type_map"]
    inputs, expected = zip(*frames(CASES[name]), strict=True)
    for p, wanted in zip(potential.evaluate_many(inputs), expected, strict=True):
        close(np.array([p.energy]), wanted["energy"], 1e-10)
        close(p.atomic_energy, wanted["atom_energy"][:, 0], 1e-10)
        # where symmetry makes them zero the reference has rounding noise
        close(p.forces, wanted["force"], 1e-9, absolute=1e-12)
        close(p.virial, wanted["virial"].reshape(3, 3), 1e-9, absolute=1e-12)


@pytest.mark.parametrize("name", names(SUPPORTED))
def test_reference_descriptors(name):
    potential = load(INDEX.parent / CASES[name]["model_files"][0], device="cpu")
    checked = 0
    for arguments, wanted in frames(CASES[name]):
        if "descriptor" in wanted:
            found, real = potential.descriptor(**arguments), wanted["atype"] >= 0
            close(found[real], wanted["descriptor"][real], 1e-10)
            assert not found[~real].any()
            checked += 1
    assert checked


@pytest.mark.parametrize("name", names(UNSUPPORTED))
def test_what_is_not_supported_is_said(name):
    with pytest.raises(ModelError, match=UNSUPPORTED[name]) as caught:
        load(INDEX.parent / CASES[name]["model_files"][0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", names(name for name in CASES if name not in SUPPORTED))
def test_nothing_unsupported_is_read_silently(name):
    for file in CASES[name]["model_files"]:
        with pytest.raises(ModelError) as caught:
            load_serialized(INDEX.parent / file)
        assert file in str(caught.value)


def test_both_containers_hold_the_same_model(golden):
    a, b = (load_serialized(golden / f"dpa3_01_plain.{suffix}") for suffix in ("dp", "yaml"))
    assert a.config == b.config
    assert state_digest(a) == state_digest(b)


def test_single_precision_is_near_the_reference(golden):
    case = CASES["dpa3_02_shipped_like"]
    potential = load(golden / case["model_files"][0], dtype="float32")
    inputs, expected = zip(*frames(case), strict=True)
    for p, wanted in zip(potential.evaluate_many(inputs), expected, strict=True):
        close(p.atomic_energy, wanted["atom_energy"][:, 0], 1e-5)
        close(p.forces, wanted["force"], 1e-4)
