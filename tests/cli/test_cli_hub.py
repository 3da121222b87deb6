"""``hub://NAME`` on the command line and in Python: a pretrained model where a file could stand, fetched once."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

import dpsim
from dpsim.cli.main import run
from dpsim.errors import ConfigError, DataError
from dpsim.model import pretrained
from dpsim.model.pretrained import PRETRAINED, Pretrained, hub_file

HUB = "hub://Known-1M"


@pytest.fixture
def published(pair_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is fetched."""
    monkeypatch.setattr(pretrained, "_kept_models", lambda: tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "published.safetensors"
    shutil.copy(pair_model, place)
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    monkeypatch.setitem(PRETRAINED, "Known-1M", Pretrained("known.safetensors", digest, (place.as_uri(),)))
    write("cu.extxyz", bulk("Cu", cubic=True))
    return place


def test_a_command_fetches_it_once(published: Path, capfd: Any) -> None:
    assert run(["model", "show", HUB, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["type_map"] == ["Cu"]
    published.unlink()
    assert run(["eval", HUB, "cu.extxyz", "-o", "out.extxyz"]) == 0
    assert Path("out.extxyz").is_file()


def test_a_stage_alone_names_the_fetched_file(published: Path, capfd: Any) -> None:
    assert run(["md", HUB, "cu.extxyz", "--print-yaml"]) == 0
    assert str(hub_file(HUB)) in capfd.readouterr().out


def test_a_training_starts_from_it(published: Path, capfd: Any) -> None:
    Path("t.yaml").write_text(f"type_map: [Cu]\ndata: nowhere\nstart_from: {HUB}\nrecipe: finetune\nsteps: 1\n")
    assert run(["train", "t.yaml"]) != 0
    assert "data: no file matches 'nowhere'" in capfd.readouterr().err
    assert hub_file(HUB).is_file()


def test_nothing_is_written_beside_it(published: Path) -> None:
    assert run(["model", "change-bias", HUB, "-b", "-1.5"]) == 0
    assert Path("known_updated.safetensors").is_file()
    assert list(hub_file(HUB).parent.glob("*.safetensors")) == [hub_file(HUB)]


def test_python_fetches_it_once(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = dpsim.DPCalculator(HUB)
    energy = atoms.get_potential_energy()
    assert caplog.messages == [f"fetching {HUB}, which is done once"]
    published.unlink()
    potential = dpsim.load(HUB)
    assert potential.source == HUB
    assert potential.evaluate(atoms.positions, atoms.symbols, atoms.cell).energy == energy
    assert len(caplog.messages) == 1


def test_what_is_wrong_is_one_sentence(published: Path, capfd: Any) -> None:
    with pytest.raises(ConfigError, match="there is no pretrained model 'Known-2M': write one of DPA-"):
        dpsim.load("hub://Known-2M")
    assert run(["model", "show", "hub://Known-2M"]) == 3
    assert "there is no pretrained model 'Known-2M'" in capfd.readouterr().err
    published.write_bytes(b"another")
    with pytest.raises(DataError, match="sha256"):
        dpsim.load(HUB)
    assert not hub_file(HUB).exists()
