"""``hub://NAME``: a pretrained model where a file could stand, fetched by ``dpsim run``, named by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dpsim.cli.main import run
from dpsim.model.pretrained import PRETRAINED, Pretrained, hub_file
from dpsim.workflow.planning.load import load

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WORKFLOW = """
dpsim: 1
name: hub
stages:
  copy:
    uses: command
    inputs: {model: INPUT}
    run: [cp, "{inputs.model}", "{out}/copy.pt"]
    outputs: {copy: copy.pt}
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is fetched as ``hub://Known-1M``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "published.pt"
    place.write_bytes(CONTENT)
    monkeypatch.setitem(PRETRAINED, "Known-1M", Pretrained("known.pt", DIGEST, (place.as_uri(),)))
    return place


def workflow(value: str) -> Path:
    path = Path("w.yaml")
    path.write_text(WORKFLOW.replace("INPUT", value))
    return path


@pytest.mark.parametrize("value", ["hub://Known-1M", f"'hub://Known-1M@sha256:{DIGEST}'", "{path: hub://Known-1M}"])
def test_a_run_fetches_it_once(published: Path, value: str, capfd: Any) -> None:
    path = workflow(value)
    assert run(["run", str(path), "-q"]) == 0
    assert Path("runs/hub/stages/copy/out/copy.pt").read_bytes() == CONTENT
    assert hub_file("hub://Known-1M").read_bytes() == CONTENT
    published.unlink()
    hub_file("hub://Known-1M").touch()  # read again
    assert run(["run", str(path), "-q"]) == 0
    found = capfd.readouterr()
    assert ("nothing to do" in found.out, found.err) == (True, "")


def test_its_content_is_what_counts(published: Path) -> None:
    assert run(["run", str(workflow("hub://Known-1M")), "-q"]) == 0
    Path("known.pt").write_bytes(CONTENT)
    assert run(["plan", str(workflow("{path: known.pt}")), "--json"]) == 0
    assert run(["run", str(workflow("{path: known.pt}")), "-q"]) == 0
    assert len(list(Path("runs/hub/store").glob("??/*"))) == 1


def test_what_only_looks_says_how_to_get_it(published: Path, capfd: Any) -> None:
    path = workflow("hub://Known-1M")
    for command in (["validate"], ["plan"], ["run", "--dry-run"]):
        assert run([*command, str(path)]) == 3
        assert "'dpsim run' fetches it, and so does 'dpsim model pull Known-1M'" in capfd.readouterr().err
    assert not hub_file("hub://Known-1M").exists()
    assert run(["model", "pull", "hub://Known-1M"]) == 0
    assert len(load(path).order) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hub://Known-2M", "there is no pretrained model 'Known-2M': write one of "),
        (f"'hub://Known-1M@sha256:{'0' * 64}'", f"Known-1M has sha256 {DIGEST}, not sha256:0"),
        ("http://x", "is not a reference"),
    ],
)
def test_another_name_or_content_is_refused(published: Path, value: str, message: str, capfd: Any) -> None:
    assert run(["run", str(workflow(value)), "-q"]) == 3
    assert message in capfd.readouterr().err


def test_it_is_no_data(published: Path, capfd: Any) -> None:
    path = Path("w.yaml")
    path.write_text("dpsim: 1\nname: hub\nstages: {data: {uses: convert, from: {path: hub://Known-1M}}}\n")
    assert run(["validate", str(path)]) == 3
    assert "hub://Known-1M is a pretrained model, expected data" in capfd.readouterr().err


def test_what_cannot_be_fetched_is_one_sentence(published: Path, capfd: Any) -> None:
    published.unlink()
    assert run(["run", str(workflow("hub://Known-1M")), "-q"]) == 6
    assert "No such file" in capfd.readouterr().err
    assert not Path("runs").exists()
