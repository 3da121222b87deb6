"""Which structures are meant: declarations, names, frames of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import write
from pydantic import ValidationError

from dpsim.calculators.statics.declared import On, declared
from dpsim.calculators.statics.structures import structures_on, the_one
from dpsim.config import Config
from dpsim.errors import ConfigError, DataError

COPPER = {"prototype": "fcc", "element": "Cu"}


class Declaration(Config):
    """A field of that type."""

    on: On


def on(value: Any) -> Any:
    return Declaration.model_validate({"on": value}).on


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("relaxed.frames", [(("on",), "")]),
        ({"frames": "a.b", "index": 0}, [(("on",), "")]),
        (COPPER, [(("on",), "")]),
        ([COPPER, "a.b"], [(("on", 0), ""), (("on", 1), "")]),
        ({"Cu": COPPER, "Au": {"path": "x.xyz"}}, [(("on", "Cu"), "Cu"), (("on", "Au"), "Au")]),
    ],
)
def test_one_a_list_or_names(value: Any, places: Any) -> None:
    found = Declaration.model_validate({"on": value})
    assert [(place, name) for place, name, _ in declared(("on",), found.on)] == places
    assert Declaration.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "at least 1 item"),
        ({}, "at least 1 item"),
        ({"frames": "a", "index": "last"}, "'last' is not an index: write a number"),
        ({"frames": "a", "index": "::0"}, "steps of zero"),
        ({"frames": "a", "index": True}, "is not an index"),
        ({"frames": "a", "supercell": [0, 1, 1]}, "greater than or equal to 1"),
        ({"a/b": COPPER}, "match pattern"),
        ({"prototype": "fcc"}, "element"),
        (3, "need exactly one of the keys"),
    ],
)
def test_what_is_no_declaration(value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        on(value)


def test_names_are_given_found_and_made_unique(tmp_path: Path) -> None:
    pair = [bulk("Cu", cubic=True), bulk("Cu")]
    pair[1].info["name"] = "from before"
    write(tmp_path / "two.xyz", pair, format="extxyz")
    found = structures_on(on([COPPER, COPPER, {"frames": str(tmp_path / "two.xyz")}]))
    assert [atoms.info["name"] for atoms in found] == ["fcc-Cu-1", "fcc-Cu-2", "two", "from-before"]
    named = structures_on(on({"both": {"frames": str(tmp_path / "two.xyz")}, "one": COPPER}))
    assert [atoms.info["name"] for atoms in named] == ["both-1", "both-2", "one"]
    again = structures_on(on({"both-1": COPPER, "both": {"frames": str(tmp_path / "two.xyz")}, "both-3": COPPER}))
    assert [atoms.info["name"] for atoms in again] == ["both-1", "both-2", "both-4", "both-3"]


def test_frames_keep_what_holds_atoms_and_lose_their_labels(tmp_path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0, 2]))
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    write(tmp_path / "held.extxyz", atoms)
    (read,) = structures_on(on(str(tmp_path / "held.extxyz")))
    assert read.constraints[0].get_indices().tolist() == [0, 2]
    assert read.calc is None


def test_structures_are_at_rest_and_keep_their_charges(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_velocities([[1.0, 0.0, 0.0]] * 4)
    atoms.set_initial_charges([1.0, 0.0, 0.0, 0.0])
    write(tmp_path / "moving.extxyz", atoms)
    path = str(tmp_path / "moving.extxyz")
    for read in structures_on(on([{"path": path}, {"frames": path}])):
        assert not read.has("momenta")
        assert read.get_initial_charges().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_indices_and_supercells(tmp_path: Path) -> None:
    frames = [bulk("Cu", a=3.6 + 0.01 * k) for k in range(5)]
    write(tmp_path / "five.extxyz", frames)

    def lattice(index: Any, **more: Any) -> list[float]:
        found = structures_on(
            on({"frames": "x", "index": index, **more}), files={"on.frames": [tmp_path / "five.extxyz"]}
        )
        return [round(atoms.cell.lengths()[0] * 2**0.5, 2) for atoms in found]

    assert lattice(-1) == [3.64]
    assert lattice("1:3") == [3.61, 3.62]
    assert lattice("::2") == [3.6, 3.62, 3.64]
    assert lattice(0, supercell=[2, 1, 1]) == [7.2]
    with pytest.raises(DataError, match=r"on: .*five.extxyz holds 5 frames, none of them at index 7"):
        lattice(7)


def test_wrong_structures_are_refused(tmp_path: Path) -> None:
    flat = bulk("Cu", cubic=True)
    flat.cell[2] = flat.cell[1]
    lost = molecule("H2O")
    lost.positions[1, 2] = np.nan
    for name, atoms in (("flat", flat), ("lost", lost)):
        write(tmp_path / f"{name}.traj", atoms)
    with pytest.raises(DataError, match=r"on \(flat\): .*volume"):
        structures_on(on(str(tmp_path / "flat.traj")))
    with pytest.raises(DataError, match=r"on \(lost\): coordinates of atom 1 is nan"):
        structures_on(on(str(tmp_path / "lost.traj")))
    sampled = on({**COPPER, "sampling": {"md": {"temperature": "300 K", "steps": 10}}})
    with pytest.raises(ConfigError, match="sampling"):
        structures_on(sampled)
    with pytest.raises(ConfigError, match="on gives 2 structures, phonon takes one: give index"):
        the_one(structures_on(on([COPPER, COPPER])), "phonon")
