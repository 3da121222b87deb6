"""Losses against the reference's numbers, and by hand on ragged batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dpsim.model.base import Model
from dpsim.model.config import ModelConfig
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context
from dpsim.model.peer.files.convert import load_serialized
from dpsim.physics.derivatives import Derivatives
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.train.batches.loader import Batch, Label
from dpsim.train.config import EnergyLossConfig
from dpsim.train.loss import Terms, huber, weighted_sum
from dpsim.train.loss.energy import EnergyLoss
from dpsim.train.optimizers.schedule import prefactor

CASES = ("train_loss_dpa3", "train_loss_se_a")
IDS = (
    "ef", "efv", "efv_intensive", "efv_mae", "efv_mae_fnorm", "efv_huber", "efv_huber_list_fnorm", "ef_relative",
    "ef_ae_pf",
)  # fmt: skip
TINY = ModelConfig.tiny().build(0)


def loss_terms(prediction: Derivatives, batch: Batch, config: EnergyLossConfig) -> Terms:
    return EnergyLoss(config, TINY).terms(prediction, batch)


class Golden(NamedTuple):
    """One model with a batch of labelled frames and the reference's losses of it."""

    entry: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: Model
    batch: Batch
    folder: Path

    def name_of(self, peer_name: str) -> str | None:
        """Our name of a parameter of the reference."""
        config, names = self.model.config, [name for name, _ in self.model.named_parameters()]
        context = Context(self.model.type_map, FAMILIES)
        found = FAMILIES.model(config.type, "").torch_names(config, [*names, "out_bias", "out_std"], context)
        ours = {f"atomic_model.{tensor.names[0]}": name for name, tensor in found.items()}
        return ours.get(peer_name)


@pytest.fixture(scope="module", params=CASES)
def case(golden: Path, request: pytest.FixtureRequest) -> Golden:
    entries = json.loads((golden / "index.json").read_text())["training"]
    entry = next(entry for entry in entries if entry["name"] == request.param)
    with np.load(golden / entry["data_file"]) as file:
        arrays = dict(file)
    model = load_serialized(golden / entry["model_files"][0])
    return Golden(entry, arrays, model, batch_of(arrays, model), golden)


def translated(options: dict[str, Any]) -> EnergyLossConfig:
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
    return EnergyLossConfig(**settings)


def whole(values: Any) -> Label:
    tensor = torch.as_tensor(np.asarray(values, dtype=np.float64))
    return Label(tensor, None, len(tensor))


def batch_of(arrays: dict[str, np.ndarray], model: Model) -> Batch:
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
    hood, n = collate(graphs), len(graphs)
    n_atoms = torch.tensor([float(graph.n_atoms) for graph in graphs], dtype=torch.float64)
    return Batch(hood, n, n_atoms, hood.frame, labels, ("a",) * n)


@pytest.mark.parametrize("name", IDS)
def test_golden_losses_and_gradients(case: Golden, name: str) -> None:
    model = case.model
    reference = next(entry for entry in case.entry["losses"] if entry["id"] == name)
    config = translated(reference["loss_options"])
    loss_of = EnergyLoss(config, model)
    weights = {k: prefactor(pair, reference["lr_over_start_lr"]) for k, pair in config.active.items()}
    model.zero_grad()
    prediction = loss_of.predict(case.batch, training=True)
    loss = weighted_sum(loss_of.terms(prediction, case.batch), weights)
    loss.backward()
    assert loss.item() == pytest.approx(reference["loss"], rel=1e-9)
    parameters = dict(model.named_parameters())
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.sqrt(sum((g.double().square().sum() for g in gradients), torch.zeros((), dtype=torch.float64)))
    assert norm.item() == pytest.approx(reference["grad_norm"], rel=1e-9)
    compared = 0
    for peer_name in case.entry["gradient_parameters"]:
        ours, expected = case.name_of(peer_name), case.arrays[f"grad/{name}/{peer_name}"]
        if ours is None:
            assert expected.size == 0  # a place-holder of the reference
            continue
        found = parameters[ours].grad
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max()))
        compared += 1
    assert compared >= 4
    if name in case.entry["gradient_models"]:
        check_whole_tree(case, name)


def check_whole_tree(case: Golden, name: str) -> None:
    """The gradient of every parameter; the reference stores them as a model."""
    tree = load_serialized(case.folder / case.entry["gradient_models"][name])
    for ours, expected in tree.named_parameters():
        found = case.model.get_parameter(ours).grad
        scale = expected.abs().max().item()
        if found is None:
            assert scale == 0, ours
        else:
            np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=0, atol=1e-9 * (1 + scale))


def test_golden_displayed_errors(case: Golden) -> None:
    shown = case.entry["losses"][1]["displayed"]
    loss = EnergyLoss(EnergyLossConfig(), case.model)
    errors = loss.errors(loss.predict(case.batch, training=False), case.batch)
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
        "drdq": torch.stack([values.forces, values.forces.cos()], dim=2), "energy_coefficient": values.forces[:, 0],
    }  # fmt: skip
    labels = {}
    for name, value in fields.items():
        weight = torch.ones(len(value), dtype=torch.float64)
        if missing and name in missing:
            weight[(frame if len(value) == len(frame) else torch.arange(len(sizes))) == missing[name]] = 0
        shape = (-1, *[1] * (value.ndim - 1))
        labels[name] = Label(value * weight.view(shape), weight if missing else None, int(weight.sum()))
    n_atoms = torch.tensor([float(n) for n in sizes], dtype=torch.float64)
    return Batch(_no_edges(sizes), len(sizes), n_atoms, frame, labels, ("x",) * len(sizes))


def _no_edges(sizes: tuple[int, ...]) -> Any:
    from dpsim.physics.neighbors import NeighborSpec

    spec = NeighborSpec(1.0, 1)
    far = [np.arange(3 * n, dtype=float).reshape(n, 3) * 10 for n in sizes]
    return collate([frame_graph(x, np.zeros(len(x), dtype=np.int64), None, spec) for x in far])


def mean(terms: Terms, name: str) -> float:
    return terms[name].total.item() / terms[name].size


def test_frames_of_different_size_are_pooled_as_defined() -> None:
    config = EnergyLossConfig(energy=1, forces=1, virial=1)
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
    config = EnergyLossConfig(type=kind, energy=1, forces=1, virial=1, atomic_energy=1)  # type: ignore[arg-type]
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
        frame = torch.repeat_interleave(torch.arange(len(keep)), torch.tensor([sizes[k] for k in keep]))
        return loss_terms(part, Batch(full.neighborhood, len(keep), full.n_atoms[keep], frame, labels, ()), config)

    everything = torch.ones(sum(sizes), dtype=torch.bool)
    assert mean(masked, "forces") == pytest.approx(mean(reduced([0, 2], keep_atoms), "forces"))
    assert mean(masked, "atomic_energy") == pytest.approx(mean(reduced([0, 2], keep_atoms), "atomic_energy"))
    assert mean(masked, "virial") == pytest.approx(mean(reduced([1, 2], everything), "virial"))
    assert mean(masked, "energy") == pytest.approx(mean(reduced([0, 1], everything), "energy"))


def test_weighted_forces_need_both_labels() -> None:
    config = EnergyLossConfig(energy=0, forces=0, weighted_forces=1)
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


def test_missing_force_weights_may_count_as_one() -> None:
    sizes = (2, 3)
    prediction = prediction_of(sizes, 0)
    batch = labels_of(sizes, 1, {"force_weight": 0})
    weight = batch.labels["force_weight"].values[:, None]
    squares = (prediction.forces - batch.labels["forces"].values).square()
    config = EnergyLossConfig(energy=0, forces=0, weighted_forces=1)
    assert mean(loss_terms(prediction, batch, config), "weighted_forces") == pytest.approx(
        (weight * squares)[2:].mean().item()
    )
    weight[:2] = 1
    config = EnergyLossConfig(energy=0, forces=0, weighted_forces=1, default_force_weight=True)
    assert mean(loss_terms(prediction, batch, config), "weighted_forces") == pytest.approx(
        (weight * squares).mean().item()
    )


@pytest.mark.parametrize("kind", ["mse", "mae"])
def test_generalized_forces(kind: str) -> None:
    """Squared whatever the type, along each coordinate and of each frame that has both labels."""
    sizes = (2, 3)
    prediction = prediction_of(sizes, 0)
    config = EnergyLossConfig(type=kind, energy=0, forces=0, generalized_forces=1, relative_forces=0.5)  # type: ignore[arg-type]
    full, partial = labels_of(sizes, 1), labels_of(sizes, 1, {"drdq": 0})
    along = []
    for rows in (slice(0, 2), slice(2, 5)):
        difference = (prediction.forces - full.labels["forces"].values)[rows].numpy().reshape(-1)
        along.append(difference @ full.labels["drdq"].values[rows].numpy().reshape(-1, 2))
    assert mean(loss_terms(prediction, full, config), "generalized_forces") == pytest.approx(np.square(along).mean())
    assert mean(loss_terms(prediction, partial, config), "generalized_forces") == pytest.approx(
        np.square(along[1]).mean()
    )


def test_energy_coefficients() -> None:
    sizes = (2, 3)
    prediction = prediction_of(sizes, 0)
    config = EnergyLossConfig(energy=1, forces=0, energy_coefficients=True)
    batch = labels_of(sizes, 1, {"energy_coefficient": 1})
    factors = batch.labels["energy_coefficient"].values.numpy().copy()
    factors[2:] = 1.0
    products = factors * prediction.atomic_energy.numpy()
    found = np.array([products[:2].sum(), products[2:].sum()])
    expected = np.mean((found - batch.labels["energy"].values.numpy()) ** 2 / np.array(sizes))
    assert mean(loss_terms(prediction, batch, config), "energy") == pytest.approx(expected, rel=1e-6)


def test_nothing_is_differentiated_without_need() -> None:
    """A loss on energies alone, where frames have no forces, keeps no second graph."""
    batch = labels_of((2, 3), 1)
    batch = dataclasses.replace(batch, labels={"energy": batch.labels["energy"]})
    graphs = [frame_graph(np.eye(3) * 1.5, np.array([0, 1, 1]), None, TINY.neighbors) for _ in range(2)]
    batch = dataclasses.replace(batch, neighborhood=collate(graphs), frame=collate(graphs).frame)
    bare, full = (EnergyLoss(EnergyLossConfig(energy=1, forces=f), TINY) for f in (0, 1))
    few, every = (loss.predict(batch, training=True) for loss in (bare, full))
    torch.testing.assert_close(few.energy, every.energy)
    assert few.energy.requires_grad
    assert few.forces.numel() == 0
    assert every.forces.requires_grad
