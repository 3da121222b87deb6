"""Predicted memory beside measured peaks, and what the prediction goes by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dpsim.calculators.memory import MB, PROCESS_MB, STAYS, made_up, peak_bytes, predict_memory
from dpsim.cli.main import cli
from dpsim.descriptors import DPA2Config, SeE2AConfig
from dpsim.errors import ModelError
from dpsim.fittings import DipoleFittingConfig, EnergyFittingConfig
from dpsim.model.base import Model
from dpsim.model.checkpoint import save_model
from dpsim.model.presets import preset
from dpsim.model.standard import ModelConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import FrameGraph, frame_graph
from dpsim.physics.pieces import CPU_ITEMS

PROGRAM = Path(__file__).with_name("memory_program.py")


def frame_of(model: Model, sample: dict[str, Any]) -> FrameGraph:
    """The neighbourhood of a sample."""
    return frame_graph(sample["positions"], sample["types"], sample["cell"], model.neighbors)


@pytest.fixture(scope="module")
def model() -> Model:
    return preset("dpa3-small", ("O", "H")).build(0)


@pytest.mark.parametrize(("what", "copies"), [("evaluation", 12), ("training", 6)])
def test_prediction_is_near_the_peak(model: Model, what: str, copies: int) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "dpa3-small", what, str(copies)], capture_output=True, text=True, check=True
    )
    measured = int(done.stdout.split()[-1])
    sample = made_up(model, 0.1)
    use = predict_memory(model, sample, copies * len(sample["types"]))
    # The program trains without a trainer, whose imports are part of the prediction.
    predicted = use.peak_mb["python"] if what == "evaluation" else (
        use.peak_mb["training"] - PROCESS_MB["training"] + PROCESS_MB["python"]
    )  # fmt: skip
    assert predicted == pytest.approx(measured, rel=0.2)
    # The part that grows with the structure is right as well.
    assert predicted - PROCESS_MB["python"] == pytest.approx(measured - PROCESS_MB["python"], rel=0.3)


def test_counts_are_those_of_the_structure(model: Model) -> None:
    sample = made_up(model, 0.08)
    graph = frame_of(model, sample)
    use = predict_memory(model, sample)
    assert (use.atoms, use.edges) == (len(sample["types"]), graph.n_edges)
    twice = predict_memory(model, sample, 2 * use.atoms)
    assert (twice.atoms, twice.edges, twice.pairs) == (2 * use.atoms, 2 * use.edges, 2 * use.pairs)


def test_memory_grows_with_atoms_density_and_training(model: Model) -> None:
    sample = made_up(model, 0.1)
    small, large = (predict_memory(model, sample, n) for n in (500, 2000))
    assert large.tensors["evaluation"] == pytest.approx(4 * small.tensors["evaluation"], rel=0.05)
    assert small.tensors["training"] > 2 * small.tensors["evaluation"]
    dense = predict_memory(model, made_up(model, 0.15), 500)
    assert dense.tensors["evaluation"] > 1.3 * small.tensors["evaluation"]
    divided = predict_memory(model, sample, 2000, ranks=4)
    assert divided.peak_mb["lammps"] == pytest.approx(small.peak_mb["lammps"], rel=0.05)
    assert divided.peak_mb["python"] == large.peak_mb["python"]


@pytest.mark.parametrize(
    ("descriptor", "fitting"),
    [
        (DPA2Config.tiny(), EnergyFittingConfig.tiny()),
        (SeE2AConfig.tiny(), DipoleFittingConfig.tiny()),
        (SeE2AConfig.tiny(), EnergyFittingConfig(neuron=(4,), numb_fparam=2, numb_aparam=1)),
    ],
    ids=["dpa2", "dipole", "parameters"],
)
def test_other_models(descriptor: DPA2Config | SeE2AConfig, fitting: EnergyFittingConfig) -> None:
    model = ModelConfig(type_map=("O", "H"), descriptor=descriptor, fitting=fitting).build(0)
    use = predict_memory(model, made_up(model, 0.1), 1000)
    assert use.tensors["training"] > use.tensors["evaluation"] > 8 * 3 * use.edges


def test_memory_of_pieces_does_not_grow(model: Model) -> None:
    """But what is kept of all atoms does; a training takes all at once."""
    local = preset("se-e2-a", ("O", "H")).build(0)
    sample = made_up(local, 0.1)
    few, some, many, more = (predict_memory(local, sample, n) for n in (500, 3000, 30_000, 60_000))
    assert 2000 * many.edges / many.atoms < CPU_ITEMS < 3000 * many.edges / many.atoms
    assert some.tensors["evaluation"] == many.tensors["evaluation"] > 3 * few.tensors["evaluation"]
    assert more.tensors["training"] == pytest.approx(2 * many.tensors["training"], rel=0.02)
    for use in ("lammps", "python"):
        grown = 2**20 * (more.peak_mb[use] - many.peak_mb[use]) / (more.edges - many.edges)
        assert grown == pytest.approx(STAYS[use], rel=0.1)
    divided = predict_memory(local, sample, 60_000, ranks=2)
    assert divided.peak_mb == {**more.peak_mb, "lammps": many.peak_mb["lammps"]}


def test_atoms_without_neighbours_are_predicted() -> None:
    local = preset("se-e2-a", ("O", "H")).build(0)
    use = predict_memory(local, {"positions": [[0.0, 0.0, 0.0]], "types": [0]}, 100)
    assert (use.atoms, use.edges) == (100, 0)


@pytest.mark.parametrize("name", ["se-e2-a", "dpa1"])
def test_prediction_of_pieces_is_near_the_peak(name: str) -> None:
    """Of an evaluation by `Potential`, lists of neighbours included."""
    copies = {"se-e2-a": 18, "dpa1": 1}[name]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), name, "pieces", str(copies)], capture_output=True, text=True, check=True
    )
    measured = int(done.stdout.split()[-1])
    local = preset(name, ("O", "H")).build(0)
    sample = made_up(local, 0.1)
    use = predict_memory(local, sample, copies * len(sample["types"]))
    assert use.peak_mb["python"] == pytest.approx(measured, rel=0.2)
    if name == "dpa1":  # most of what it takes are pairs of edges
        whole = peak_bytes(local, collate([frame_of(local, sample)]), copies, training=False)
        assert measured < PROCESS_MB["python"] + 0.75 * whole / MB


def test_electrostatics_is_not_predicted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "long_range", True)
    with pytest.raises(ModelError, match="electrostatics is not predicted"):
        predict_memory(model, made_up(model, 0.1))


def test_command(model: Model, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "m.safetensors")
    found = CliRunner().invoke(cli, ["model", "mem", str(path), "--atoms", "1536", "--ranks", "2"])
    assert found.exit_code == 0, found.output
    assert found.output.startswith("1,536 atoms, ")
    assert "LAMMPS, each of 2 ranks: " in found.output
    assert "training, a batch of so many atoms: " in found.output


def test_command_reads_a_structure(model: Model, tmp_path: Path) -> None:
    from ase import Atoms
    from ase.io import write

    path = save_model(model, tmp_path / "m.safetensors")
    write(tmp_path / "w.extxyz", Atoms("OH2", [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]], cell=[4, 4, 4], pbc=True))
    words = ["model", "mem", str(path), "--structure", str(tmp_path / "w.extxyz"), "--json"]
    found = json.loads(CliRunner().invoke(cli, words).output)
    assert found["atoms"] == 3
    assert found["peak_mb"]["training"] > found["peak_mb"]["python"]
    refused = CliRunner().invoke(cli, ["model", "mem", str(path)])
    assert refused.exit_code != 0
    assert "give --atoms, or --structure" in str(refused.exception) + refused.output
