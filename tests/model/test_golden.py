"""Models with random parameters against the numbers of the reference program (DeePMD-kit 3.2.0, float64).

All numbers agree to a few 1e-14; the tolerances are those that the project promises: 1e-10 for energies, other
outputs and descriptors, 1e-9 of the largest component for forces and virials.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpsim.calculators.evaluate import load
from dpsim.model.checkpoint import state_digest
from dpsim.model.peer.files.convert import load_serialized

INDEX = Path(__file__).resolve().parents[3] / "shared" / "golden" / "index.json"
CASES = {case["name"]: case for case in json.loads(INDEX.read_text())["cases"]} if INDEX.is_file() else {}
INPUTS = ("fparam", "aparam", "charge_spin", "spin")
# the reference's energy of these depends on the order of the atoms (README of golden/): there is nothing to agree with
ORDER_DEPENDENT = [name for name, case in CASES.items() if case.get("order_dependent")]
NAMES = [name for name in CASES if name not in ORDER_DEPENDENT]
WITH_DESCRIPTOR = [name for name in NAMES if "descriptor" in CASES[name]["outputs"]]
TENSORS = {"dipole": "dipole", "polar": "polarizability", "dos": "dos"}
absent = pytest.mark.skip(reason="the developers' folder of reference data (../shared) is absent")


def names(found):
    return list(found) if CASES else [pytest.param("", marks=absent)]


def close(found, expected, relative, absolute=0.0):
    allowed = max(relative * np.abs(expected).max(initial=0.0), absolute)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0.0) <= allowed


def frames(case):
    """For each frame of a case the arguments and the expected numbers."""
    data = np.load(INDEX.parent / case["data_file"])
    for structure in case["structures"]:
        at = structure["id"]
        for f in range(structure["nframes"]):
            values = {key.split("/")[1]: data[key][f] for key in data.files if key.startswith(f"{at}/")}
            arguments = {"positions": values["coord"], "types": values["atype"], "cell": values.get("cell")}
            arguments |= {name: values[name] for name in INPUTS if name in values}
            if case.get("use_default_fparam"):
                arguments.pop("fparam", None)
            yield arguments, values


def open_case(name, **options):
    return load(INDEX.parent / CASES[name]["model_files"][0], device="cpu", **options)


@pytest.mark.parametrize("name", names(NAMES))
def test_reference_numbers(name):
    case, potential = CASES[name], open_case(name)
    assert list(potential.type_map) == case["type_map"]
    inputs, expected = zip(*frames(case), strict=True)
    check = check_energy if potential.outputs == {"energy"} else check_tensor
    for p, wanted in zip(potential.evaluate_many(inputs), expected, strict=True):
        check(case, p, wanted)


def check_energy(case, p, wanted):
    close(np.array([p.energy]), wanted["energy"], 1e-10)
    close(p.atomic_energy, wanted["atom_energy"][:, 0], 1e-10)
    # where symmetry makes them zero the reference has rounding noise
    close(p.forces, wanted["force"], 1e-9, absolute=1e-12)
    close(p.virial, wanted["virial"].reshape(3, 3), 1e-9, absolute=1e-12)
    if "force_mag" in wanted:
        close(p.magnetic_forces, wanted["force_mag"], 1e-9, absolute=1e-12)
    elif "dpa2" not in case["family"] and "cell" not in wanted and "atom_virial" in wanted:
        close(p.atomic_virial.sum(0), wanted["atom_virial"].reshape(-1, 3, 3).sum(0), 1e-9, absolute=1e-12)


def check_tensor(case, p, wanted):
    kind = case["params"]["fitting_net"]["type"]
    if kind == "property":
        name = case["params"]["fitting_net"]["property_name"]
        close(p.property, wanted[name], 1e-10)
        close(p.atomic_property, wanted[f"atom_{name}"], 1e-10)
        return
    ours = TENSORS[kind]
    atomic, total = ("atom_dos", "dos") if kind == "dos" else (kind, f"global_{kind}")
    close(getattr(p, f"atomic_{ours}"), wanted[atomic], 1e-10)
    close(getattr(p, ours), wanted[total], 1e-10)


DIPOLES = [name for name, case in CASES.items() if "global_dipole" in case["outputs"]]


@pytest.mark.parametrize("name", names(DIPOLES))
def test_reference_derivatives_of_dipoles(name):
    potential = open_case(name)
    for arguments, wanted in frames(CASES[name]):
        p = potential.dipole_derivatives(**arguments)
        check_tensor(CASES[name], p, wanted)
        close(p.dipole_forces, wanted["force"], 1e-9)
        close(p.dipole_virial, wanted["virial"].reshape(3, 3, 3), 1e-9)


@pytest.mark.parametrize("name", names(WITH_DESCRIPTOR))
def test_reference_descriptors(name):
    potential = open_case(name)
    checked = 0
    for arguments, wanted in frames(CASES[name]):
        if "descriptor" in wanted:
            found, real = potential.descriptor(**arguments), wanted["atype"] >= 0
            close(found[real], wanted["descriptor"][real], 1e-10)
            assert not found[~real].any()
            checked += 1
    assert checked


@pytest.mark.parametrize("name", names(ORDER_DEPENDENT))
def test_where_the_reference_depends_on_the_order_of_atoms_we_do_not(name):
    potential, rng = open_case(name), np.random.default_rng(0)
    for arguments, _ in frames(CASES[name]):
        order = rng.permutation(len(arguments["types"]))
        moved = arguments | {key: arguments[key][order] for key in ("positions", "types")}
        before, after = potential.evaluate_many([arguments, moved])
        close(np.array(after.energy), np.array(before.energy), 1e-12)
        close(after.forces, before.forces[order], 1e-10)


@pytest.mark.parametrize("name", [n for n in ("dpa3_01_plain", "se_r_01") if n in CASES] or names(()))
def test_both_containers_hold_the_same_model(golden, name):
    a, b = (load_serialized(golden / f"{name}.{suffix}") for suffix in ("dp", "yaml"))
    assert a.config == b.config
    assert state_digest(a) == state_digest(b)


SINGLE = ("dpa3_02_shipped_like", "dpa2_01_small_like", "dpa1_02_attn2", "se_a_02_two_side", "zbl_01_dpa1")


@pytest.mark.parametrize("name", names(name for name in SINGLE if name in CASES))
def test_single_precision_is_near_the_reference(name):
    inputs, expected = zip(*frames(CASES[name]), strict=True)
    for p, wanted in zip(open_case(name, dtype="float32").evaluate_many(inputs), expected, strict=True):
        close(p.atomic_energy, wanted["atom_energy"][:, 0], 1e-5)
        close(p.forces, wanted["force"], 2e-4)
