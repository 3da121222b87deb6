"""Losses of dipoles, tensors, densities, properties and populations, against their formulas in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dpsim.errors import ConfigError
from dpsim.model.config import ModelConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.testing import Subject
from dpsim.train.batches.loader import Batch, Label
from dpsim.train.config import (
    DOSLossConfig,
    EnergyLossConfig,
    PopulationLossConfig,
    PropertyLossConfig,
    TensorLossConfig,
    TrainConfig,
)
from dpsim.train.loss import Term, check_loss, make_loss

SIZES = (2, 4)
N = np.array(SIZES, dtype=float)
FRAME = np.repeat([0, 1], SIZES)


class FakeModel:
    """Says what it is told, for any neighbourhood."""

    spin = None

    def __init__(self, output: str, values: np.ndarray, intensive: bool = False, std: Any = 1.0) -> None:
        self.output, self.told, self.intensive = output, torch.from_numpy(values), intensive
        self.out_std = torch.from_numpy(np.broadcast_to(std, (2, values[0].size)).copy())

    def values(self, hood: Any) -> torch.Tensor:
        return self.told


def label_of(values: np.ndarray, weight: np.ndarray | None = None) -> Label:
    """A label; rows of weight 0 are missing, and hold zeros."""
    if weight is None:
        return Label(torch.from_numpy(values), None, len(values))
    kept = values * weight.reshape(-1, *[1] * (values.ndim - 1))
    return Label(torch.from_numpy(kept), torch.from_numpy(weight), int(weight.sum()))


def batch_of(**labels: Label) -> Batch:
    graphs = [frame_graph(np.eye(n, 3) * 9, np.zeros(n, int), None, ModelConfig.tiny().neighbors()) for n in (2, 3)]
    return Batch(collate(graphs), 2, torch.from_numpy(N), torch.from_numpy(FRAME), labels, ("a", "b"))


def terms_of(config: Any, model: Any, batch: Batch) -> dict[str, float]:
    loss = make_loss(config, model)
    found = loss.terms(loss.predict(batch, training=True), batch)
    return {name: (term.total / term.size).item() for name, term in found.items()}


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def totals(atomic: np.ndarray) -> np.ndarray:
    return np.stack([atomic[f == FRAME].sum(0) for f in (0, 1)])


@pytest.mark.parametrize(("output", "shape"), [("dipole", (3,)), ("polarizability", (3, 3))])
def test_tensor(output: str, shape: tuple[int, ...]) -> None:
    found, atomic, total = draw(0, 6, *shape), draw(1, 6, *shape), draw(2, 2, *shape)
    weight = np.abs(draw(3, 6))
    there = np.array([1.0, 0, 1, 1, 1, 1])  # an excluded atom
    model = FakeModel(output, found)
    labels = {output: label_of(total), f"atomic_{output}": label_of(atomic, there), "atomic_weight": label_of(weight)}
    plain = terms_of(TensorLossConfig(type="tensor", total=1, atomic=1), model, batch_of(**labels))
    kept = there > 0
    assert plain["total"] == pytest.approx(np.mean((totals(found) - total) ** 2))
    assert plain["atomic"] == pytest.approx(np.mean((found - atomic)[kept] ** 2))
    weighted = TensorLossConfig(type="tensor", atomic=2, atomic_weight=True)
    scaled = (found - atomic) * weight.reshape(-1, *[1] * len(shape))
    assert terms_of(weighted, model, batch_of(**labels))["atomic"] == pytest.approx(np.mean(scaled[kept] ** 2))
    del labels["atomic_weight"]
    assert terms_of(weighted, model, batch_of(**labels))["atomic"] == pytest.approx(plain["atomic"])
    assert terms_of(weighted, model, batch_of(**{output: labels[output]})) == {}


def test_dos() -> None:
    found, atomic, total = draw(0, 6, 5), draw(1, 6, 5), draw(2, 2, 5)
    config = DOSLossConfig(type="dos", dos=1, cumulative=1, atomic_dos=1, atomic_cumulative=1)
    terms = terms_of(config, FakeModel("dos", found), batch_of(dos=label_of(total), atomic_dos=label_of(atomic)))
    assert terms == pytest.approx(
        {
            "dos": np.mean((totals(found) - total) ** 2),
            "cumulative": np.mean((totals(found).cumsum(1) - total.cumsum(1)) ** 2),
            "atomic_dos": np.mean((found - atomic) ** 2),
            "atomic_cumulative": np.mean((found.cumsum(1) - atomic.cumsum(1)) ** 2),
        }
    )


def smooth(x: np.ndarray, beta: float) -> np.ndarray:
    return np.where(np.abs(x) < beta, 0.5 * x**2 / beta, np.abs(x) - 0.5 * beta)


@pytest.mark.parametrize("intensive", [False, True])
@pytest.mark.parametrize("function", ["smooth_mae", "mae", "mse", "rmse", "mape"])
def test_property(function: str, intensive: bool) -> None:
    """Sums over frames and components of errors in units of the first type's deviation, per atom if extensive."""
    found, label, std = draw(0, 6, 2), draw(1, 2, 2), np.array([[0.5, 2.0], [7.0, 7.0]])
    model = FakeModel("property", found, intensive, std)
    config = PropertyLossConfig(type="property", function=function, beta=0.7 if function == "smooth_mae" else None)
    y = totals(found) / N[:, None] if intensive else totals(found)
    a, b = (y, label) if intensive else (y / N[:, None], label / N[:, None])
    d = (a - b) / std[0]
    expected = {
        "smooth_mae": smooth(d, 0.7).sum(),
        "mae": np.abs(d).sum(),
        "mse": (d**2).sum(),
        "rmse": np.sqrt((d**2).mean()),
        "mape": np.abs((a - b) / (b + 1e-3)).mean(),
    }[function]
    batch = batch_of(property=label_of(label))
    assert terms_of(config, model, batch)["property"] == pytest.approx(expected)
    loss = make_loss(config, model)  # type: ignore[arg-type]
    shown = loss.errors(loss.predict(batch, training=False), batch)["property"]
    assert shown.total.item() / shown.size == pytest.approx(np.mean((a - b) ** 2))


@pytest.mark.parametrize("function", ["smooth_mae", "mae", "rmse"])
def test_population(function: str) -> None:
    """Frames of 2 and of 4 atoms; the last atom is excluded, so that the second frame counts three."""
    found, label = draw(0, 6, 2) * 2, draw(1, 6, 2)
    there = np.array([1.0, 1, 1, 1, 1, 0])
    config = PopulationLossConfig(type="population", function=function, beta=0.7 if function == "smooth_mae" else None)
    batch = batch_of(atomic_population=label_of(label, there))
    batch.n_atoms[1] = 3
    terms = terms_of(config, FakeModel("population", found), batch)
    d = found - label
    frames = [d[:2], d[2:5]]

    def summed(errors: list[np.ndarray], per_atom: bool) -> float:
        factors = [1 / len(rows) if per_atom else 1.0 for rows in errors]
        if function == "rmse":
            every = np.concatenate([rows.ravel() for rows in errors])
            return float(np.sqrt(np.mean(every**2)) * sum(f * r.size for f, r in zip(factors, errors, strict=True)))
        measured = [np.abs(r) if function == "mae" else smooth(r, 0.7) for r in errors]
        return float(sum(f * r.sum() for f, r in zip(factors, measured, strict=True)))

    spin = [rows[:, 0] - rows[:, 1] for rows in frames]
    assert terms == pytest.approx(
        {
            "spin": summed(spin, True),
            "populations": summed(frames, True),
            "total_spin": summed([rows.sum(keepdims=True) for rows in spin], False),
            "total_alpha": summed([rows[:, 0].sum(keepdims=True) for rows in frames], False),
            "total_beta": summed([rows[:, 1].sum(keepdims=True) for rows in frames], False),
        }
    )


def test_errors_of_sums_are_per_atom() -> None:
    found, atomic, total = draw(0, 6, 3), draw(1, 6, 3), draw(2, 2, 3)
    loss = make_loss(TensorLossConfig(type="tensor", total=1), FakeModel("dipole", found))  # type: ignore[arg-type]
    batch = batch_of(dipole=label_of(total), atomic_dipole=label_of(atomic))

    def mean(term: Term) -> float:
        return (term.total / term.size).item()

    shown = loss.errors(loss.predict(batch, training=False), batch)
    assert mean(shown["dipole"]) == pytest.approx(np.mean(((totals(found) - total) / N[:, None]) ** 2))
    assert mean(shown["atomic_dipole"]) == pytest.approx(np.mean((found - atomic) ** 2))


def test_losses_are_for_their_outputs() -> None:
    check_loss(TensorLossConfig(type="tensor", total=1), "polarizability")
    with pytest.raises(ConfigError, match=r"loss\.type: mse is for energy, and the model predicts dipole: .*tensor`"):
        check_loss(EnergyLossConfig(), "dipole")
    with pytest.raises(ConfigError, match="tensor is for dipole and polarizability, and the model predicts energy"):
        check_loss(TensorLossConfig(type="tensor", total=1), "energy")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "tensor"}, "every term is off: give at least one of total, atomic a weight"),
        ({"type": "tensor", "total": 1, "atomic_weight": True}, "atomic_weight has no effect without atomic"),
        ({"type": "dos", "atomic_dos": [1, 0]}, "has a zero, which switches the term off"),
        ({"type": "property", "function": "mse", "beta": 1}, "beta has no effect with function: mse"),
        ({"type": "population", "function": "mae", "beta": 1}, "beta has no effect with function: mae"),
        ({"type": "huber", "generalized_forces": 1}, "do not go with type: huber"),
        ({"default_force_weight": True}, "default_force_weight has no effect without weighted_forces"),
        ({"type": "cosine"}, "expected tags: 'mse', 'mae', 'huber', 'tensor', 'dos', 'property', 'population'"),
    ],
)
def test_wrong_settings(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(steps=1, loss=loss)


def test_options_that_came_later_do_not_change_older_settings() -> None:
    """A training made before they came can be continued, and its cache key stays."""
    dumped = EnergyLossConfig().model_dump()
    assert not {"generalized_forces", "magnetic_forces", "default_force_weight", "energy_coefficients"} & set(dumped)
    assert "energy_coefficients" in EnergyLossConfig(energy_coefficients=True).model_dump()
    config = TrainConfig(steps=1, loss={"type": "dos", "dos": 1})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_gradients_reach_all_parameters() -> None:
    """Of a real model: what is not trained would be a detached loss."""
    subject = Subject.from_config(ModelConfig.tiny().model_copy(update={"fitting": dipole_fitting()}))
    hood = collate([subject.graph(subject.molecule())])
    model = subject.model.requires_grad_(True)
    batch = Batch(hood, 1, torch.tensor([6.0]), hood.frame, {"dipole": label_of(draw(0, 1, 3))}, ("a",))
    loss = make_loss(TensorLossConfig(type="tensor", total=1), model)
    term = loss.terms(loss.predict(batch, training=True), batch)["total"]
    term.total.backward()
    reached = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert {name.split(".")[0] for name in reached} == {"descriptor", "fitting"}
    assert not loss.predict(batch, training=False).total.requires_grad


def dipole_fitting() -> Any:
    from dpsim.fittings import DipoleFittingConfig

    return DipoleFittingConfig.tiny()
