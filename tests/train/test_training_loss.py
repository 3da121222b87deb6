"""Losses against the reference's numbers, and by hand on ragged batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpsim.data import Frame
from dpsim.model.peer.convert import load_serialized
from dpsim.model.base import Model
from dpsim.physics.derivatives import Derivatives
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.train.config import LossConfig
from dpsim.train.loader import Batch, Label
from dpsim.train.loss import Terms, huber, loss_terms, squared_errors, weighted_sum
from dpsim.train.schedule import prefactor

NAMES = {
    "atomic_model.descriptor.repflows.edge_embd.matrix": "descriptor.edge_embedding.weight",
    "atomic_model.descriptor.repflows.layers.0.n_residual.0": "descriptor.layers.0.node_residual.0",
    "atomic_model.descriptor.repflows.layers.1.node_sym_linear.matrix": "descriptor.layers.1.node_sym.weight",
    "atomic_model.fitting_net.filter_layers.networks.0.layers.2.bias": "fitting.networks.0.output.bias",
    "atomic_model.fitting_net.filter_layers.networks.0.layers.1.idt": "fitting.networks.0.hidden.1.idt",
}
IDS = (
    "ef", "efv", "efv_intensive", "efv_mae", "efv_mae_fnorm", "efv_huber", "efv_huber_list_fnorm", "ef_relative",
    "ef_ae_pf",
)  # fmt: skip


@pytest.fixture(scope="module")
def case(golden: Path) -> dict[str, Any]:
    entries = json.loads((golden / "index.json").read_text())["training"]
    return next(entry for entry in entries if entry["name"] == "train_loss_dpa3")


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "train_loss_dpa3.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load_serialized(golden / "train_loss_dpa3.dp")


def translated(options: dict[str, Any]) -> LossConfig:
    """Settings of the reference's loss as ours."""
    short = {"energy": "e", "forces": "f", "virial": "v", "atomic_energy": "ae", "weighted_forces": "pf"}
    settings: dict[str, Any] = {
        name: (options.get(f"start_pref_{s}", 0.0), options.get(f"limit_pref_{s}", 0.0)) for name, s in short.items()
    }
    settings["type"] = "huber" if options.get("use_huber") else options.get("loss_func", "mse")
    if "huber_delta" in options:
        settings["huber_delta"] = options["huber_delta"]
    settings["force_norm"] = options.get("f_use_norm", False)
    settings["relative_forces"] = options.get("relative_f")
    settings["intensive"] = options.get("intensive_ener_virial", False)
    return LossConfig(**settings)


def whole(values: Any) -> Label:
    tensor = torch.as_tensor(np.asarray(values, dtype=np.float64))
    return Label(tensor, None, len(tensor))


@pytest.fixture(scope="module")
def batch(arrays: dict[str, np.ndarray], model: Model) -> Batch:
    graphs = [
        frame_graph(x, t.astype(np.int64), c, model.neighbors)
        for x, t, c in zip(arrays["coord"], arrays["atype"], arrays["cell"], strict=True)
    ]
    labels = {
        "energy": whole(arrays["energy"][:, 0]),
        "forces": whole(arrays["force"].reshape(-1, 3)),
        "virial": whole(arrays["virial"].reshape(-1, 3, 3)),
        "atomic_energy": whole(arrays["atom_ener"].reshape(-1)),
        "force_weight": whole(arrays["atom_pref"][:, :, 0].reshape(-1)),
    }
    return Batch(collate(graphs), 2, torch.full((2,), 192.0, dtype=torch.float64), labels, ("a#0", "a#1"))


@pytest.mark.parametrize("name", IDS)
def test_golden_losses_and_gradients(
    case: dict[str, Any], arrays: dict[str, np.ndarray], model: Model, batch: Batch, name: str
) -> None:
    reference = next(entry for entry in case["losses"] if entry["id"] == name)
    config = translated(reference["loss_options"])
    weights = {k: prefactor(pair, reference["lr_over_start_lr"]) for k, pair in config.active.items()}
    model.zero_grad()
    prediction = model.derivatives(batch.neighborhood, 2, create_graph=True)
    loss = weighted_sum(loss_terms(prediction, batch, config), weights)
    loss.backward()
    assert loss.item() == pytest.approx(reference["loss"], rel=1e-9)
    parameters = dict(model.named_parameters())
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.sqrt(sum((g.double().square().sum() for g in gradients), torch.zeros((), dtype=torch.float64)))
    assert norm.item() == pytest.approx(reference["grad_norm"], rel=1e-9)
    for peer_name, ours in NAMES.items():
        expected = arrays[f"grad/{name}/{peer_name}"]
        found = parameters[ours].grad
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max()))


def test_golden_displayed_errors(case: dict[str, Any], model: Model, batch: Batch) -> None:
    shown = case["losses"][1]["displayed"]
    errors = squared_errors(model.derivatives(batch.neighborhood, 2), batch)
    for name, key in (("energy", "rmse_e"), ("forces", "rmse_f"), ("virial", "rmse_v")):
        assert np.sqrt(errors[name].total.item() / errors[name].size) == pytest.approx(shown[key], rel=1e-9)


def prediction_of(sizes: tuple[int, ...], seed: int) -> Derivatives:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, f = sum(sizes), len(sizes)
    return Derivatives(draw(f), draw(n, 3), draw(f, 3, 3), draw(n), draw(0, 3))


def labels_of(sizes: tuple[int, ...], seed: int, missing: dict[str, int] | None = None) -> Batch:
    """Random labels; `missing` tells a field and the frame that lacks it."""
    values = prediction_of(sizes, seed)
    frame = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    fields = {
        "energy": values.energy, "forces": values.forces, "virial": values.virial,
        "atomic_energy": values.atomic_energy, "force_weight": values.atomic_energy.abs(),
    }  # fmt: skip
    labels = {}
    for name, value in fields.items():
        weight = torch.ones(len(value), dtype=torch.float64)
        if missing and name in missing:
            weight[(frame if len(value) == len(frame) else torch.arange(len(sizes))) == missing[name]] = 0
        shape = (-1, *[1] * (value.ndim - 1))
        labels[name] = Label(value * weight.view(shape), weight if missing else None, int(weight.sum()))
    n_atoms = torch.tensor([float(n) for n in sizes], dtype=torch.float64)
    return Batch(collate([]) if not sizes else _no_edges(sizes), len(sizes), n_atoms, labels, ("x",) * len(sizes))


def _no_edges(sizes: tuple[int, ...]) -> Any:
    from dpsim.physics.neighbors import NeighborSpec

    spec = NeighborSpec(1.0, 1)
    far = [np.arange(3 * n, dtype=float).reshape(n, 3) * 10 for n in sizes]
    return collate([frame_graph(x, np.zeros(len(x), dtype=np.int64), None, spec) for x in far])


def mean(terms: Terms, name: str) -> float:
    return terms[name].total.item() / terms[name].size


def test_frames_of_different_size_are_pooled_as_defined() -> None:
    config = LossConfig(energy=1, forces=1, virial=1)
    sizes = (2, 5)
    both = loss_terms(prediction_of(sizes, 0), labels_of(sizes, 1), config)
    one, two = prediction_of(sizes, 0), labels_of(sizes, 1)
    d_energy = (one.energy - two.labels["energy"].values).numpy()
    d_forces = (one.forces - two.labels["forces"].values).numpy()
    d_virial = (one.virial - two.labels["virial"].values).numpy()
    assert mean(both, "energy") == pytest.approx(np.mean(d_energy**2 / np.array(sizes)))
    assert mean(both, "forces") == pytest.approx(np.sum(d_forces**2) / (3 * sum(sizes)))
    assert mean(both, "virial") == pytest.approx(np.mean((d_virial**2).mean((1, 2)) / np.array(sizes)))


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_frames_without_a_label_do_not_count(kind: str) -> None:
    """A frame without a label leaves the term of the others as if it were not there."""
    config = LossConfig(type=kind, energy=1, forces=1, virial=1, atomic_energy=1)  # type: ignore[arg-type]
    sizes = (2, 5, 3)
    prediction = prediction_of(sizes, 0)
    full = labels_of(sizes, 1)
    masked = loss_terms(
        prediction, labels_of(sizes, 1, {"forces": 1, "virial": 0, "energy": 2, "atomic_energy": 1}), config
    )
    keep_atoms = torch.tensor([True] * 2 + [False] * 5 + [True] * 3)

    def reduced(keep: list[int], atoms: Tensor) -> Terms:
        part = Derivatives(
            prediction.energy[keep], prediction.forces[atoms], prediction.virial[keep], prediction.atomic_energy[atoms],
            prediction.edge_gradient,
        )  # fmt: skip
        labels = {}
        for name, label in full.labels.items():
            chosen = label.values[atoms] if len(label.values) == sum(sizes) else label.values[keep]
            labels[name] = Label(chosen, None, len(chosen))
        return loss_terms(part, Batch(full.neighborhood, len(keep), full.n_atoms[keep], labels, ()), config)

    everything = torch.ones(sum(sizes), dtype=torch.bool)
    assert mean(masked, "forces") == pytest.approx(mean(reduced([0, 2], keep_atoms), "forces"))
    assert mean(masked, "atomic_energy") == pytest.approx(mean(reduced([0, 2], keep_atoms), "atomic_energy"))
    assert mean(masked, "virial") == pytest.approx(mean(reduced([1, 2], everything), "virial"))
    assert mean(masked, "energy") == pytest.approx(mean(reduced([0, 1], everything), "energy"))


def test_weighted_forces_need_both_labels() -> None:
    config = LossConfig(energy=0, forces=0, weighted_forces=1)
    sizes = (2, 3)
    prediction = prediction_of(sizes, 0)
    batch = labels_of(sizes, 1, {"forces": 0})
    difference = (prediction.forces - batch.labels["forces"].values)[2:].square()
    weight = batch.labels["force_weight"].values[2:, None]
    assert mean(loss_terms(prediction, batch, config), "weighted_forces") == pytest.approx(
        (weight * difference).mean().item()
    )
    neither = labels_of(sizes, 1, {"forces": 0, "force_weight": 1})
    assert loss_terms(prediction, neither, config) == {}
    assert weighted_sum({}, {}).item() == 0.0


def test_huber_is_continuous_with_its_slope() -> None:
    x = torch.tensor([0.3 - 1e-9, 0.3 + 1e-9, -2.0], dtype=torch.float64, requires_grad=True)
    y = huber(x, 0.3)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y[0].item() == pytest.approx(y[1].item(), abs=1e-8)
    assert slope.tolist() == pytest.approx([0.3, 0.3, -0.3])
    assert y[2].item() == pytest.approx(0.3 * (2.0 - 0.15))


def test_frame_type_is_what_the_loader_takes() -> None:
    """The data room and this one agree on the names of the labels."""
    from dpsim.fields import BY_NAME
    from dpsim.train.loader import _PER_ATOM, _SHAPES, LABELS

    assert all(_SHAPES[name] == BY_NAME[name].shape for name in LABELS)
    assert all((BY_NAME[name].kind == "atom") == (name in _PER_ATOM) for name in LABELS)
    assert "labels" in Frame.__dataclass_fields__
