"""``dpsim train`` with input that cannot be trained on: one sentence with the place, and the last checkpoint stays.

Every case begins with a folder in which four good steps were made, spoils one thing, and asks for more steps.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from dpsim.cli.main import run as cli
from dpsim.data import Frame, write_mixed
from dpsim.model.checkpoint import load_model
from dpsim.train.batches import frames as frames_module
from dpsim.train.records.state import checkpoints

TYPE_MAP = ["Cu", "Au"]
MODEL = {
    "preset": "dpa3-tiny", "descriptor": {"repflow": {"nlayers": 1, "n_dim": 8, "e_dim": 4, "a_dim": 4}},
    "fitting": {"neuron": [4]},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "type_map": TYPE_MAP, "data": "data/train", "valid": "data/valid", "model": MODEL, "batch_size": 4, "steps": 4,
    "validate_every": 2, "checkpoint_every": 2, "loss": {"virial": [0.02, 1]},
}  # fmt: skip


def declare(folder: Path, **changes: Any) -> None:
    """Write ``train.yaml``; settings that are None are left out."""
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def good(emt_frames: Callable[..., list[Frame]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``data``, ``train.yaml`` and the finished training ``t`` of four steps."""
    folder = tmp_path_factory.mktemp("good")
    write_mixed(emt_frames(8), folder / "data/train", TYPE_MAP)
    write_mixed(emt_frames(4, 1), folder / "data/valid", TYPE_MAP)
    declare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli(["train", "train.yaml", "-o", "t"]) == 0
    return folder


Spoiler = Callable[[Path], None]


def change(name: str, spoil: Callable[[np.ndarray], np.ndarray | None], part: str = "train/4") -> Spoiler:
    """Change an array of a part of the data, in place or for another."""

    def spoiler(folder: Path) -> None:
        path = folder / f"data/{part}/set.000/{name}.npy"
        array = np.load(path)
        other = spoil(array)
        np.save(path, array if other is None else other)

    return spoiler


def value(index: tuple[int, ...], number: float) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(index, number)


def settings_of(**changes: Any) -> Spoiler:
    return lambda folder: declare(folder, **{"steps": 8, **changes})


def without_labels(*names: str, below: str = "data") -> Spoiler:
    def spoiler(folder: Path) -> None:
        for path in (folder / below).rglob("*.npy"):
            if path.stem in names:
                path.unlink()

    return spoiler


def no_validation_frames(folder: Path) -> None:
    shutil.rmtree(folder / "data/valid/8")
    for path in (folder / "data/valid/4/set.000").glob("*.npy"):
        np.save(path, np.load(path)[:0])
    (folder / "data/valid/4/dataset.json").unlink()


def no_validation_systems(folder: Path) -> None:
    shutil.rmtree(folder / "data/valid")
    (folder / "data/valid").mkdir()


def other_checkpoint(folder: Path) -> None:
    """A training of a larger model wrote the newest checkpoint."""
    larger = {**MODEL, "fitting": {"neuron": [6]}}
    declare(folder, model=larger, steps=2)
    assert cli(["train", "train.yaml", "-o", "other"]) == 0
    declare(folder, steps=8)


def cut_checkpoint(folder: Path) -> None:
    path = folder / "t/step-4.ckpt"
    path.write_bytes(path.read_bytes()[:-100])


class Case(NamedTuple):
    """What is spoilt, and what is said."""

    spoil: Spoiler
    sentence: str
    code: int = 4
    output: str = "t"
    options: tuple[str, ...] = ()


FRAME = r"train/4/set\.000#2: "
CASES = {
    "energy nan": Case(change("energy", value((2,), np.nan)), rf"DataError: {FRAME}energy is nan, expected a finite"),
    "energy infinite": Case(change("energy", value((2,), -np.inf)), rf"DataError: {FRAME}energy is -inf, expected a"),
    "force nan": Case(change("force", value((2, 4), np.nan)), rf"DataError: {FRAME}forces of atom 1 is nan, expected"),
    "virial nan": Case(change("virial", value((2, 0), np.nan)), rf"DataError: {FRAME}virial is nan, expected a finite"),
    "coordinate nan": Case(change("coord", value((2, 0), np.nan)), rf"DataError: {FRAME}coordinates of atom 0 is nan"),
    "validation nan": Case(
        change("force", value((1, 0), np.inf), "valid/4"),
        r"DataError: valid/4/set\.000#1: forces of atom 0 is inf, expected a finite",
    ),
    "forces of fewer atoms": Case(
        change("force", lambda a: a[:, :9]), r"DataError: data/train/4/set\.000/force\.npy has shape \(4, 9\), expected"
    ),
    "energies of fewer frames": Case(
        change("energy", lambda a: a[:3]), r"DataError: data/train/4/set\.000/energy\.npy has shape \(3,\), expected"
    ),
    "boxes of another shape": Case(
        change("box", lambda a: a[:, :6]), r"DataError: data/train/4/set\.000/box\.npy has shape \(4, 6\), expected"
    ),
    "labels are text": Case(
        change("energy", lambda a: a.astype(str)), r"DataError: data/train/4/set\.000/energy\.npy"
    ),
    "no label of a term": Case(
        without_labels("virial"), r"DataError: loss\.virial: no frame of the training data has the label 'virial'"
    ),
    "no label to validate": Case(
        without_labels("energy", "force", "virial", below="data/valid"),
        r"DataError: no frame of the validation data has one of the labels energy, forces, virial: add them",
        output="new",
    ),
    "validation without frames": Case(no_validation_frames, r"DataError: the validation data hold no frame \(.*valid"),
    "validation without systems": Case(no_validation_systems, r"DataError: data/valid .*no system"),
    "element unknown": Case(
        settings_of(type_map=["Cu"]), r"DataError: data/train/[48]/.*element Au, which is not in the type_map \(Cu\)",
        output="new",
    ),
    "model in the folder": Case(
        settings_of(model={**MODEL, "fitting": {"neuron": [6]}}),
        r"ConfigError: t/step-4\.ckpt holds another model \(fitting\.neuron: \[6\] here, \[4\] there\): train into",
        3,
    ),
    "checkpoint of another model": Case(
        other_checkpoint, r"ConfigError: other/step-2\.ckpt holds another model \(fitting\.neuron", 3,
        options=("--restart", "other/step-2.ckpt"),
    ),
    "checkpoint of other elements": Case(
        settings_of(type_map=["Cu", "Au", "Ag"]), r"ConfigError: type_map has Ag, but the model to go on", 3
    ),
    "checkpoint of other data": Case(
        change("energy", lambda a: a + 1), r"ConfigError: t/step-4\.ckpt was made with other training data: ", 3
    ),
    "checkpoint cut short": Case(cut_checkpoint, r"ModelError: t/step-4\.ckpt is not a checkpoint of dpsim"),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("name", CASES)
def test_it_stops_with_the_place(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    folder = tmp_path / "good"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    declare(folder, steps=8)
    case.spoil(folder)
    before = contents(folder / "t")
    capsys.readouterr()
    assert cli(["train", "train.yaml", "-o", case.output, *case.options]) == case.code
    said = capsys.readouterr().err.strip().splitlines()
    assert re.match(rf"dpsim: {case.sentence}", said[-1]), said
    assert not any("Traceback" in line for line in said)
    assert contents(folder / "t") == before
    assert case.output == "t" or not (folder / case.output).exists()


def test_an_unspoilt_training_goes_on(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(good, tmp_path / "good")
    monkeypatch.chdir(tmp_path / "good")
    declare(Path(), steps=8)
    assert cli(["train", "train.yaml", "-o", "t"]) == 0
    assert checkpoints(Path("t"))[-1][0] == 8


def test_a_damaged_frame_that_was_not_looked_at_before(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of very many frames only some are looked at first; the others are when their batch is made."""
    shutil.copytree(good, tmp_path / "good")
    monkeypatch.chdir(tmp_path / "good")
    monkeypatch.setattr(frames_module, "SCANNED", 2)
    change("force", value((2, 0), np.nan))(Path())
    declare(Path(), steps=40, checkpoint_every=1, batch_size=1, keep_checkpoints=40, valid=None)
    assert cli(["train", "train.yaml", "-o", "new"]) == 4
    said = capsys.readouterr().err
    assert re.search(rf"dpsim: DataError: {FRAME}forces of atom 0 is nan", said)
    done = len(checkpoints(Path("new")))
    assert done < 8, "the frame is among the first eight"
    if done:
        assert np.isfinite(load_model(Path("new/last.safetensors")).out_bias.numpy()).all()


def test_a_diverging_run(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good / "data", "data")
    rate = {"start": 1e30, "stop": 1e30}
    declare(Path(), steps=400, learning_rate=rate, validate_every=400, gradient_max_norm=0, checkpoint_every=1)
    assert cli(["train", "train.yaml", "-o", "t"]) == 5
    said = capsys.readouterr().err.strip().splitlines()[-1]
    steps = [step for step, _ in checkpoints(Path("t"))]
    kept = rf"step-{steps[-1]}\.ckpt holds the last good state" if steps else "no checkpoint was written yet"
    assert re.match(
        rf"dpsim: StageError: step \d+: the (loss|gradient) .*the batch holds train/[48]/set\.000#\d.*{kept}", said
    ), said
    for path in Path("t").glob("*.safetensors"):
        assert all(np.isfinite(p.detach().numpy()).all() for p in load_model(path).parameters())
