"""``dpsim eval`` and ``dpsim test`` of energies and of other outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

from dpsim.cli.main import run
from dpsim.data import Frame, write_mixed
from dpsim.descriptors import SeE2AConfig
from dpsim.fittings import EnergyFittingConfig, PolarizabilityFittingConfig, PropertyFittingConfig
from dpsim.model.checkpoint import save_model
from dpsim.model.config import ModelConfig
from dpsim.testing import Subject

FITTINGS = {
    "energy": EnergyFittingConfig.tiny(),
    "polarizability": PolarizabilityFittingConfig.tiny(),
    "gap": PropertyFittingConfig.tiny(),
}


def saved(name, folder):
    """A small model, and its file."""
    config = ModelConfig(type_map=("O", "H"), descriptor=SeE2AConfig.tiny(), fitting=FITTINGS[name])
    subject = Subject.from_config(config)
    return subject.potential, save_model(subject.model, folder / "m.safetensors")


def called(capsys, *arguments):
    assert run([*map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", FITTINGS)
def test_eval(name, tmp_path, capsys):
    potential, file = saved(name, tmp_path)
    atoms = molecule("H2O")
    write(tmp_path / "in.xyz", [atoms, atoms[:2]])
    told = called(capsys, "eval", file, tmp_path / "in.xyz", "-o", tmp_path / "out.xyz", "--json")
    output = "property" if name == "gap" else name
    found = read(tmp_path / "out.xyz", index=":")
    for k, structure in enumerate(found):
        expected = potential.evaluate(structure.positions, structure.get_chemical_symbols())
        total = getattr(expected, output)
        np.testing.assert_allclose(told["energies" if name == "energy" else name][k], total, rtol=1e-12)
        np.testing.assert_allclose(structure.info[f"dpsim_{name}"], total, rtol=1e-6)
        if name == "energy":
            np.testing.assert_allclose(structure.arrays["dpsim_forces"], expected.forces, atol=1e-7)
        else:
            atomic = getattr(expected, f"atomic_{output}").reshape(len(structure), -1)
            np.testing.assert_allclose(structure.arrays[f"dpsim_atomic_{name}"], atomic, atol=1e-7)


def test_test_shows_what_is_predicted(tmp_path, capsys):
    potential, file = saved("polarizability", tmp_path)
    positions = np.eye(3) * 1.2
    label = potential.evaluate(positions, [0, 1, 1]).polarizability + 0.3
    write_mixed([Frame(positions, np.array([0, 1, 1]), None, {"polarizability": label})], tmp_path / "d", ("O", "H"))
    assert run(["test", str(file), str(tmp_path / "d")]) == 0
    header, *_, last = capsys.readouterr().out.splitlines()
    assert "polarizability RMSE" in header
    assert "energy" not in header
    assert last.split() == ["overall", "1", "0.1", "0.1"]


def test_freeze_and_test_as_workflows(tmp_path, capsys, monkeypatch):
    """What is printed is a workflow with the same settings."""
    from dpsim.workflow.planning.load import load

    monkeypatch.chdir(tmp_path)
    saved("energy", tmp_path)
    write_mixed(
        [Frame(np.eye(3) * 1.2, np.array([0, 1, 1]), None, {"energy": np.array(0.0)})], tmp_path / "d", ("O", "H")
    )
    for words, uses, keys in (
        (["freeze", "m.safetensors", "-o", "m.pt2", "--no-checks", "--dtype", "float32"], "freeze",
         {"checks": False, "precision": "float32", "device": "cpu", "head": None}),
        (["test", "m.safetensors", "d", "--device", "cpu", "--head", "h"], "test", {"head": "h"}),
    ):  # fmt: skip
        assert run([*words, "--print-yaml"]) == 0
        (tmp_path / "w.yaml").write_text(capsys.readouterr().out)
        plan = load(tmp_path / "w.yaml")
        task = plan.workflow.tasks[uses]
        assert {key: getattr(task.config, key) for key in keys} == keys
        assert plan.workflow.type_map == ("O", "H")
        assert task.resources.gpus == (0 if uses == "test" else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "m.safetensors", "w.yaml"]
