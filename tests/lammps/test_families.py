"""Every family of models in LAMMPS gives what it gives in Python, on one and several ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, KEYWORDS, build, freeze, is_message_passing, run_all, structure, write_deck
from lammps_runs import compare, read_output

pytestmark = pytest.mark.lammps

TOLERANCE = 1e-10  # of the largest value, in float64
HBAR = 4.135667403e-3 / (2 * np.pi)  # eV ps, from LAMMPS's own h in metal units
CHUNK = 7  # atoms at a time; those of a rank are no multiple of it
CASES = [
    (name, ranks, chunk)
    for name in FAMILIES
    for ranks in (1, 2, 4)
    for chunk in ((0,) if is_message_passing(name) else (0, CHUNK))
    if ranks < 4 or is_message_passing(name)
]
QUICK = (
    "dpa3-ener-inputs",
    "dpa2-ener",
    "se_e2_a-ener",
    "dpa3-dipole",
    "zbl",
    "spin",
    "dplr",
    "se_e3_tebd-ener-inputs",
)
"""Families of the default run: each door, list and kind of output; compiling a model takes half a minute."""


class Runs:
    """Folders and messages of all runs."""

    def __init__(self, request: pytest.FixtureRequest, scratch: Path) -> None:
        cases = sorted({item.callspec.params["case"] for item in request.session.items if _is_case(item)})
        frozen = freeze(sorted({name for name, *_ in cases}), request.config.cache.mkdir("dpsim-models"))
        self.messages: dict[Path, str] = {}
        self.scratch = scratch
        for ranks in sorted({ranks for _, ranks, _ in cases}):
            folders = []
            for name, chunk in ((name, chunk) for name, r, chunk in cases if r == ranks):
                folder = self.folder(name, ranks, chunk)
                folder.mkdir(parents=True)
                write_deck(name, frozen[name], folder, chunk)
                folders.append(folder)
            self.messages |= run_all(folders, ranks, self.scratch / str(ranks))

    def folder(self, name: str, ranks: int, chunk: int) -> Path:
        """Where the deck of a family was run."""
        return self.scratch / str(ranks) / f"{name}-{chunk}"


def _is_case(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.originalname == "test_family"


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All selected families, frozen and run."""
    return Runs(request, tmp_path_factory.mktemp("families"))


def _parameter(name: str, ranks: int, chunk: int):
    marks = () if name in QUICK else pytest.mark.slow
    return pytest.param((name, ranks, chunk), marks=marks, id=f"{name}-{ranks}{'-pieces' if chunk else ''}")


@pytest.mark.parametrize("case", [_parameter(*case) for case in CASES])
def test_family(case: tuple[str, int, int], runs: Runs) -> None:
    name, *_ = case
    folder = runs.folder(*case)
    assert runs.messages[folder] == ""
    model, expected = build(name), _predict(name)
    if model.output == "energy":
        _compare_energy(name, folder, expected)
    else:
        _compare_values(model, folder, expected)


def _predict(name: str):
    """Python's answer, by PyTorch modules."""
    from dpsim.calculators.engines import ModuleEngine
    from dpsim.calculators.evaluate import Potential

    model, (system, spins) = build(name), structure(name)
    inputs: dict = {"aparam": KEYWORDS["aparam"]} if model.inputs.n_aparam else {}
    inputs |= {"charge_spin": KEYWORDS["charge_spin"]} if model.inputs.charge_spin else {}
    inputs |= {} if spins is None else {"spin": spins}
    potential = Potential(ModuleEngine(model, "cpu"), name)
    return potential.evaluate(system.positions, system.symbols, system.cell, **inputs)


def _compare_energy(name: str, folder: Path, expected) -> None:
    found = read_output(folder)
    compare(found, expected, TOLERANCE)
    assert np.abs(expected.forces).max() > 1e-4, "a test without forces shows nothing"
    _, spins = structure(name)
    if spins is not None:
        frequency = expected.magnetic_forces * np.linalg.norm(spins, axis=1)[:, None] / HBAR
        assert np.abs(frequency).max() > 1e-3
        scale = TOLERANCE * np.abs(frequency).max()
        np.testing.assert_allclose(found.magnetic, frequency, rtol=0, atol=scale)


def _compare_values(model, folder: Path, expected) -> None:
    """Each atom's values, and the sum that LAMMPS forms of them."""
    values = getattr(expected, f"atomic_{model.output}")
    flat = values.reshape(len(values), -1)
    found = np.loadtxt(folder / "atoms.dump", skiprows=9, ndmin=2)[:, 1:]
    assert np.ptp(flat, axis=0).max() > 1e-6
    np.testing.assert_allclose(found, flat, rtol=0, atol=TOLERANCE * np.abs(flat).max())
    totals = np.loadtxt(folder / "totals.txt", ndmin=2)[0, 1:]
    np.testing.assert_allclose(totals, flat.sum(0), rtol=0, atol=TOLERANCE * np.abs(flat).sum(0).max())
