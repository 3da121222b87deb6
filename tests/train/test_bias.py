"""Output biases that are moved to other data, fitted anew, or given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dpsim.calculators.evaluate import load
from dpsim.cli.main import run as cli
from dpsim.data import open_dataset, write_mixed
from dpsim.data.frame import Frame
from dpsim.errors import DataError, ModelError
from dpsim.fittings import DOSFittingConfig, EnergyFittingConfig, PropertyFittingConfig
from dpsim.model.checkpoint import load_model, read_header, save_model
from dpsim.model.config import ModelConfig
from dpsim.train.batches.frames import FrameSet
from dpsim.train.start.bias import change_bias, fit_bias, give_bias

TYPE_MAP = ("Cu", "Ag", "Au")


def model_of(fitting=None, **changes):
    config = ModelConfig.tiny().model_dump() | {"type_map": TYPE_MAP} | changes
    model = ModelConfig.model_validate(config | ({} if fitting is None else {"fitting": fitting})).build(3)
    model.out_bias.copy_(torch.linspace(-1, 1, model.out_bias.numel()).reshape(model.out_bias.shape))
    return model


def by_hand(model, folder):
    """Compositions, labels and predictions, frame by frame."""
    data = open_dataset([folder], TYPE_MAP)
    potential = load(save_model(model, folder.parent / "by_hand.safetensors"), device="cpu")
    frames = list(data)
    counts = np.array([np.bincount(frame.types, minlength=3) for frame in frames], dtype=float)
    labels = np.array([float(frame.labels["energy"]) for frame in frames])
    predicted = np.array([potential.evaluate(f.positions, f.types, f.cell).energy for f in frames])
    return counts, labels, predicted


@pytest.fixture
def folder(emt: Path, tmp_path: Path) -> Path:
    """The training frames, in a folder of their own."""
    write_mixed(list(open_dataset([emt / "train"])), tmp_path / "data", ("Cu", "Au"))
    return tmp_path / "data"


def test_change_is_least_squares_of_what_is_left(folder: Path) -> None:
    model = model_of()
    counts, labels, predicted = by_hand(model, folder)
    before = model.out_bias.numpy().copy()
    change = fit_bias(model, FrameSet(folder, TYPE_MAP))
    expected = np.linalg.lstsq(counts, labels - predicted, rcond=None)[0]
    np.testing.assert_allclose(model.out_bias.numpy() - before, expected, atol=1e-10)
    assert change.after[1] == change.before[1] == before[1]  # no Ag in the data
    np.testing.assert_array_equal(change.atoms, counts.sum(0))
    left = (labels - predicted - counts @ expected) / counts.sum(1)
    assert change.rmse is not None
    assert change.rmse[1] == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-9)
    assert change.rmse[0] > 3 * change.rmse[1]
    again = fit_bias(model, FrameSet(folder, TYPE_MAP))
    np.testing.assert_allclose(again.after, again.before, atol=1e-10)


def test_set_is_least_squares_of_the_labels(folder: Path) -> None:
    model = model_of()
    counts, labels, _ = by_hand(model, folder)
    fit_bias(model, FrameSet(folder, TYPE_MAP), "set")
    expected = np.linalg.lstsq(counts, labels, rcond=None)[0]
    np.testing.assert_allclose(model.out_bias.numpy(), expected, atol=1e-10)
    assert model.out_bias[1] == 0


def test_set_takes_the_scales_of_the_parameters(folder: Path) -> None:
    frames = list(open_dataset([folder], TYPE_MAP))
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, size=(len(frames), 1))
    given = [
        Frame(f.positions, f.types, f.cell, {**f.labels, "fparam": v}) for f, v in zip(frames, values, strict=True)
    ]
    write_mixed(given, folder.parent / "with", TYPE_MAP)
    fitting = EnergyFittingConfig.tiny().model_copy(update={"numb_fparam": 1})
    model = model_of(fitting)
    data = FrameSet(folder.parent / "with", TYPE_MAP)
    fit_bias(model, data)
    assert (model.fitting.fparam_mean == 0).all()
    fit_bias(model, data, "set")
    np.testing.assert_allclose(model.fitting.fparam_mean.numpy(), values.mean(0), atol=1e-12)
    np.testing.assert_allclose(model.fitting.fparam_inv_std.numpy(), 1 / values.std(0), rtol=1e-10)
    with pytest.raises(DataError, match=r"the model takes fparam .* add fparam\.npy"):
        fit_bias(model, FrameSet(folder, TYPE_MAP))


@pytest.mark.parametrize("mode", ["change", "set"])
def test_given_energies_and_excluded_types(folder: Path, mode: str) -> None:
    """What is given stays as it is, and what has no energy takes no part in the fit."""
    model = model_of()
    counts, labels, predicted = by_hand(model, folder)
    before = model.out_bias.numpy().copy()
    fit_bias(model, FrameSet(folder, TYPE_MAP), mode, preset={"Au": -3.0})
    start = predicted if mode == "change" else np.zeros_like(labels)
    shift = -3.0 - (before[2] if mode == "change" else 0.0)
    rest = counts * [1, 1, 0]
    expected = np.linalg.lstsq(rest, labels - start - counts[:, 2] * shift, rcond=None)[0]
    expected += before if mode == "change" else 0.0
    assert model.out_bias[2] == pytest.approx(-3.0)
    np.testing.assert_allclose(model.out_bias.numpy()[:2], expected[:2], atol=1e-10)

    model = model_of(atom_exclude_types=(2,))
    counts, labels, predicted = by_hand(model, folder)
    before = model.out_bias.numpy().copy()
    fit_bias(model, FrameSet(folder, TYPE_MAP), mode)
    start = predicted if mode == "change" else np.zeros_like(labels)
    expected = np.linalg.lstsq(counts * [1, 1, 0], labels - start, rcond=None)[0] + (before if mode == "change" else 0)
    np.testing.assert_allclose(model.out_bias.numpy(), expected, atol=1e-10)
    with pytest.raises(ModelError, match=r"preset_out_bias: 'Fe' is not in the type map"):
        fit_bias(model, FrameSet(folder, TYPE_MAP), mode, preset={"Fe": 1.0})


@pytest.mark.parametrize("atomic", [False, True])
def test_grids(folder: Path, atomic: bool) -> None:
    """Of densities of states, each grid point; labels of atoms are taken where there are any."""
    frames = list(open_dataset([folder], TYPE_MAP))
    rng = np.random.default_rng(0)
    own = rng.normal(size=(3, 4))
    labelled = []
    for f in frames:
        labels = {"dos": np.ones(4)} if atomic else {"dos": own[f.types].sum(0)}
        labels |= {"atomic_dos": own[f.types]} if atomic else {}
        labelled.append(Frame(f.positions, f.types, f.cell, labels))
    write_mixed(labelled, folder.parent / "dos", TYPE_MAP)
    data = FrameSet(folder.parent / "dos", TYPE_MAP)
    model = model_of(DOSFittingConfig.tiny().model_copy(update={"numb_dos": 4}))
    fit_bias(model, data, "set")
    np.testing.assert_allclose(model.out_bias.numpy()[[0, 2]], own[[0, 2]], atol=1e-9)
    fit_bias(model, data, "change")
    again = fit_bias(model, data, "change")
    np.testing.assert_allclose(again.after, again.before, atol=1e-9)


def test_property_of_all_types(folder: Path) -> None:
    """One bias for all types, of the mean over the atoms."""
    frames = list(open_dataset([folder], TYPE_MAP))
    labelled = [Frame(f.positions, f.types, f.cell, {"property": np.array([k + 0.5])}) for k, f in enumerate(frames)]
    write_mixed(labelled, folder.parent / "gap", TYPE_MAP)
    data = FrameSet(folder.parent / "gap", TYPE_MAP)
    fitting = PropertyFittingConfig.tiny().model_copy(update={"task_dim": 1, "distinguish_types": False})
    model = model_of(fitting)
    fit_bias(model, data, "set")
    np.testing.assert_allclose(model.out_bias.numpy(), np.arange(len(frames)).mean() + 0.5)
    change = fit_bias(model, data)
    assert np.ptp(change.after) == 0
    again = fit_bias(model, data)
    np.testing.assert_allclose(again.after, again.before, atol=1e-10)


def test_file_is_written_beside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder.parent / "m.safetensors"
    model = model_of()
    save_model(model, path, {"step": 7, "training": {"model": {"preset_out_bias": {"Au": -3.0}}}})
    assert cli(["model", "change-bias", str(path), str(folder), "-n", "5"]) == 0
    out = capsys.readouterr().out
    assert "energy error (RMSE)" in out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == list(TYPE_MAP)
    result = folder.parent / "m_updated.safetensors"
    assert load_model(result).out_bias[2] == pytest.approx(-3.0)
    provenance = read_header(result)["provenance"]
    assert (provenance["step"], provenance["mode"], provenance["bias changed of"]) == (7, "change", path.name)
    assert torch.equal(load_model(path).out_bias, model.out_bias)
    other = folder.parent / "o.safetensors"
    assert cli(["model", "change-bias", str(path), "-b", "-1.5", "2e-1", "-.5", "-o", str(other), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["elements"]["Ag"] == {"atoms": 0, "before": 0.0, "after": 0.2}
    assert load_model(other).out_bias.tolist() == [-1.5, 0.2, -0.5]


def test_refusals(folder: Path, emt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_model(model_of(), folder.parent / "m.safetensors")
    bare = [Frame(f.positions, f.types, f.cell, {}) for f in open_dataset([folder], TYPE_MAP)]
    write_mixed(bare, folder.parent / "bare", TYPE_MAP)
    with pytest.raises(DataError, match=r"no frame of the data has a label of the energy"):
        change_bias(path, folder.parent / "bare")
    with pytest.raises(ModelError, match=r"2 energies were given, expected 3: one each for Cu Ag Au"):
        give_bias(load_model(path), [1.0, 2.0])
    with pytest.raises(ModelError, match=r"from data or from given numbers"):
        change_bias(path)
    with pytest.raises(ModelError, match=r"is the model to change"):
        change_bias(path, folder, path)
    with pytest.raises(ModelError, match=r"a \.safetensors file, found '\.pt'"):
        change_bias(path, folder, folder.parent / "x.pt")
    with pytest.raises(ModelError, match=r"has a single head"):
        change_bias(path, folder, head="a")
    assert cli(["model", "change-bias", str(path), "-b", "1", "2", "3", "-m", "set"]) == 3
    assert cli(["model", "change-bias", str(path), str(folder), "-b", "x"]) == 2
    assert not (folder.parent / "m_updated.safetensors").exists()
