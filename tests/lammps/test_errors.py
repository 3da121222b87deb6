"""What a user can get wrong in a LAMMPS input: one sentence each, on every rank alike, never a hang."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ensembles import with_header
from lammps_runs import System, grid, head, run, run_failing, symbols

pytestmark = pytest.mark.lammps


def _start(folder: Path, **keywords: str) -> str:
    system = System(grid(20, (7.5,) * 3, 30), symbols(20, 30), np.eye(3) * 7.5)
    return head(system, system.write(folder / "s.data", ("O", "H")), **keywords)


INPUTS = {
    "lj": ({"units": "lj"}, "MODEL\nOH", r'needs units that have dimensions, the input has "units lj"; write'),
    "newton off": ({"before": "newton off"}, "MODEL\nOH", r'needs "newton on", the input has newton off'),
    "missing file": ({}, "pair_style dpsim nowhere.pt2", r"model file nowhere.pt2 does not exist"),
    "no file": ({}, "pair_style dpsim", r"needs a model file: pair_style dpsim model.pt2"),
    "only keywords": ({}, "pair_style dpsim device cpu", r"needs a model file"),
    "fparam": ({}, "MODEL fparam 1.0\nOH", r"the model takes no frame parameters; leave out the keyword fparam"),
    "aparam": ({}, "MODEL aparam 1.0\nOH", r"the model takes no atomic parameters; leave out the keyword aparam"),
    "charge_spin": ({}, "MODEL charge_spin 0 1\nOH", r"the model takes no charge and spin; leave out"),
    "no number": ({}, "MODEL fparam 1.0 x1\nOH", r'"x1" behind fparam is not a number'),
    "unknown keyword": ({}, "MODEL device cpu fast yes\nOH", r"unknown keyword fast, expected one of: device"),
    "no value": ({}, "MODEL mpi", r"keyword mpi has no value"),
    "no choice": ({}, "MODEL mpi never", r'"mpi never" is not a choice'),
    "no chunk": ({}, "MODEL chunk -1", r'"-1" behind chunk is not a whole number of 0 or more'),
    "messages in chunks": ({}, "MODEL chunk 64", r"but in .* all atoms pass messages to each other; leave out the k"),
    "wrong device": ({}, "MODEL device cuda", r"was frozen for the device cpu, not cuda; freeze it with"),
    "device route": ({}, "MODEL mpi device", r'"mpi device" needs a model on a GPU'),
    "unknown element": ({}, "MODEL\npair_coeff * * O Xe", r"Xe \(for atom type 2\) is not in the model.* knows O H"),
    "few elements": ({}, "MODEL\npair_coeff * * O", r"one element for each of the 2 atom types"),
    "types by number": ({}, "MODEL\npair_coeff 1 1 O", r"Pair_coeff must start with \* \*"),
    "elements of an earlier model": ({}, "MODEL\nOH\nMODEL", r"All pair coeffs are not set"),
    "NULL alone": ({}, "MODEL\npair_coeff * * O NULL", r"NULL \(for atom type 2\) is only possible when .* hybrid"),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_input(name: str, model64: Path, tmp_path: Path) -> None:
    keywords, lines, sentence = INPUTS[name]
    lines = lines.replace("MODEL_PATH", str(model64)).replace("MODEL", f"pair_style dpsim {model64}")
    deck = _start(tmp_path, **keywords) + lines.replace("OH", "pair_coeff * * O H") + "\nrun 0\n"
    ranks = 2 if name in ("lj", "missing file", "unknown element") else 1
    assert re.search(sentence, run_failing(tmp_path, deck, ranks))


def test_special_bonds_that_remove_pairs(model64: Path, tmp_path: Path) -> None:
    system = System(grid(20, (7.5,) * 3, 30), symbols(20, 30), np.eye(3) * 7.5)
    deck = head(system, system.write(tmp_path / "s.data", ("O", "H"), "molecular"), style="molecular")
    deck += f"pair_style dpsim {model64}\npair_coeff * * O H\nrun 0\n"
    assert re.search(r"special_bonds removes 1-2 neighbors; write", run_failing(tmp_path, deck))


def test_file_that_is_no_model(model64: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("not a model")
    (tmp_path / "half.pt2").write_bytes(model64.read_bytes()[:100_000])
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as archive:
        archive.writestr("a/b.txt", "nothing")
    for name in ("text", "half"):
        deck = _start(tmp_path) + f"pair_style dpsim {name}.pt2\n"
        assert re.search(rf"model file {name}.pt2 is not a frozen model", run_failing(tmp_path, deck, 2))
    message = run_failing(tmp_path, _start(tmp_path) + "pair_style dpsim zip.pt2\n")
    assert re.search(r"model file zip.pt2 (is not a frozen model|was not written by dpsim)", message)


CHANGES = {
    "format": ({"format": 1}, "", r"it has format 1, this plugin reads format 2; freeze the model again"),
    "torch": ({"torch": "2.1.0"}, "", r"was frozen with torch 2\.1\.0, here is torch 2\.\d+; freeze the model again"),
    "key": ({"neighbors": None}, "", r'the key "neighbors" is missing'),
    "output": ({"output": "dipole", "output_shape": [3]}, "", r"predicts no energy but dipole; give a potential, or"),
    "fparam": ({"n_fparam": 2}, "", r'takes 2 frame parameters and has no default; write "fparam v1 v2" behind'),
    "fewer": ({"n_fparam": 2}, "fparam 1.0", r"fparam has 1 values, but the model takes 2 frame parameters"),
    "more": ({"n_aparam": 1}, "aparam 1 2 device cpu", r'aparam has 2 values, but .* 1 atomic.*; write "aparam v1"'),
    "aparam": ({"n_aparam": 1}, "", r'takes 1 atomic parameters and has no default; write "aparam v1"'),
    "charge": ({"charge_spin": True}, "", r"takes the charge and the spin .* has no default"),
    "half a charge": ({"charge_spin": True}, "charge_spin 0.5 1", r"a whole charge from -100 to 99"),
    "no spin": ({"charge_spin": True}, "charge_spin 1", r"charge_spin takes two numbers"),
    "default": ({"n_fparam": 2, "default_fparam": [1.0]}, "", r"default_fparam has 1 members, expected 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_metadata_is_checked(name: str, model64: Path, tmp_path: Path) -> None:
    change, keywords, sentence = CHANGES[name]
    with_header(model64, tmp_path / "changed.pt2", change)
    message = run_failing(tmp_path, _start(tmp_path) + f"pair_style dpsim changed.pt2 {keywords}\n")
    assert re.search(sentence, message)


def test_mass_of_another_element_is_a_warning(model64: Path, tmp_path: Path) -> None:
    deck = _start(tmp_path) + f"pair_style dpsim {model64}\npair_coeff * * H O\nrun 0\n"
    text = run(tmp_path, deck)
    assert re.search(r"WARNING: .*atom type 1 is mapped to H but has mass 15\.999, expected about 1\.008", text)
    right = deck.replace("* * H O", "* * O H")
    assert "is mapped to" not in run(tmp_path, right)


def test_excluded_pairs_are_a_warning(model64: Path, tmp_path: Path) -> None:
    deck = _start(tmp_path) + f"pair_style dpsim {model64}\npair_coeff * * O H\nneigh_modify exclude type 1 1\nrun 0\n"
    assert "neigh_modify exclude removes pairs" in run(tmp_path, deck)
