"""Small labelled data sets for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.data import Frame, write_mixed
from dpsim.train.config import TrainConfig

TYPE_MAP = ("Cu", "Au")


def make_emt_frames(
    number: int, seed: int = 0, *, labels: Sequence[str] = ("energy", "forces", "virial")
) -> list[Frame]:
    """Strained and rattled fcc cells of 4 and 8 atoms, pure and mixed, labelled by ASE's EMT."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    rng = np.random.default_rng(seed)
    frames = []
    for k in range(number):
        atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * ((2, 1, 1) if k % 2 else (1, 1, 1))
        if k % 3 == 0:
            atoms.symbols[0] = "Au"
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.12, size=atoms.positions.shape)
        atoms.calc = EMT()
        known = {
            "energy": np.array(atoms.get_potential_energy()),
            "forces": atoms.get_forces(),
            "virial": -atoms.get_stress(voigt=False) * atoms.get_volume(),
        }
        types = np.array([TYPE_MAP.index(s) for s in atoms.get_chemical_symbols()])
        frames.append(Frame(atoms.positions, types, atoms.cell.array, {name: known[name] for name in labels}))
    return frames


@pytest.fixture(scope="session")
def emt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``train`` (24 frames) and ``valid`` (6)."""
    folder = tmp_path_factory.mktemp("emt")
    write_mixed(make_emt_frames(24, 0), folder / "train", TYPE_MAP)
    write_mixed(make_emt_frames(6, 1), folder / "valid", TYPE_MAP)
    return folder


@pytest.fixture(scope="session")
def emt_frames() -> Callable[..., list[Frame]]:
    """Makes frames labelled by EMT: their number, a seed, and which labels they keep."""
    return make_emt_frames


@pytest.fixture
def settings() -> Callable[..., TrainConfig]:
    """Makes the settings of a tiny training, with changes."""

    def make(**changes: Any) -> TrainConfig:
        flow = {
            "n_dim": 8, "e_dim": 6, "a_dim": 4, "nlayers": 2, "e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 40,
            "a_rcut": 3.2, "a_rcut_smth": 2.5, "a_sel": 20, "a_compress_rate": 1, "a_compress_e_rate": 2,
            "a_compress_use_split": True, "smooth_edge_update": True, "edge_init_use_dist": True,
        }  # fmt: skip
        model = {
            "descriptor": {"type": "dpa3", "repflow": flow, "activation_function": "silut:10"},
            "fitting": {"neuron": [8, 8], "activation_function": "silut:10"},
        }
        base: dict[str, Any] = {
            "model": model, "steps": 8, "batch_size": 3, "log_every": 2, "validate_every": 4, "checkpoint_every": 2,
            "loss": {"virial": [0.02, 1]},
        }  # fmt: skip
        return TrainConfig(**{**base, **changes})

    return make
