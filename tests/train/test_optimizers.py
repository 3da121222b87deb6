"""Optimizers: their formulas, that they learn, and that they go on bit for bit; batches that make one step."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dpsim.data import Frame, write_mixed
from dpsim.errors import Interrupted, SetupError, StageError
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.loss import make_loss
from dpsim.train.optimizers.build import build_optimizer, set_learning_rate
from dpsim.train.optimizers.kalman import KalmanFilter, blocks_of, chosen_atoms, factor
from dpsim.train.optimizers.muon import Muon, matrix_shape, orthogonal
from dpsim.train.parallel.joining import Head, Joint
from dpsim.train.records.running import Clock
from dpsim.train.records.state import load_state
from dpsim.train.settings.optimizer import KalmanConfig, MuonConfig
from dpsim.train.step import GradientStep, NotFiniteError, make_step
from dpsim.train.trainer import train

Settings = Callable[..., TrainConfig]
MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")


def stepped(config: MuonConfig, start: torch.Tensor, gradients: list[torch.Tensor], rate: float) -> torch.Tensor:
    """Parameter after one step for each gradient."""
    p = nn.Parameter(start.clone())
    optimizer = build_optimizer(config, [p])
    set_learning_rate(optimizer, rate)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 4)])
def test_orthogonalized_matrices(shape: tuple[int, ...]) -> None:
    matrix = random(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.mT @ orthogonal(matrix) @ right.mT
    values = torch.diagonal(found, dim1=-2, dim2=-1)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    off = found - torch.diag_embed(values)
    assert off.abs().max() < 1e-10


def test_shape_of_a_matrix() -> None:
    assert matrix_shape(torch.Size([3, 1, 4])) == (3, 4)
    assert matrix_shape(torch.Size([2, 3, 4])) == (2, 3, 4)
    assert matrix_shape(torch.Size([7])) == (1, 7)
    assert matrix_shape(torch.Size([])) == (1, 1)


def test_muon_by_its_formulas() -> None:
    start, gradients, rate = random(4, 7), [random(4, 7, seed=k) for k in (1, 2, 3)], 0.1
    found = stepped(MuonConfig(), start, gradients, rate)
    w, m = start.clone(), torch.zeros(4, 7, dtype=torch.float64)
    for g in gradients:
        m = 0.95 * m + 0.05 * g
        w = w * (1 - rate * 1e-3) - rate * 0.18 * math.sqrt(7) * orthogonal(0.05 * g + 0.95 * m)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-13)


def test_size_of_a_step() -> None:
    """``rms``: the root mean square of a step is the coefficient, for any shape; ``aspect``: its singular values."""
    for shape in ((8, 8), (4, 32), (32, 4)):
        zero, gradient = torch.zeros(shape, dtype=torch.float64), random(*shape)
        for kind in ("Muon", "AdaMuon"):
            config = MuonConfig(type=kind, coefficient=0.3)
            moved = stepped(config, zero, [gradient], 1.0)
            assert moved.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.15 if kind == "Muon" else 1e-6)
        values = torch.linalg.svdvals(stepped(MuonConfig(scaling="aspect"), zero, [gradient], 1.0))
        assert values.mean().item() == pytest.approx(math.sqrt(max(1, shape[1] / shape[0])), rel=0.2)


def test_adamuon_divides_by_running_squares() -> None:
    start, gradients, rate = random(3, 5), [random(3, 5, seed=k) for k in (1, 2)], 0.1
    found = stepped(MuonConfig(type="AdaMuon", weight_decay=0.0), start, gradients, rate)
    w, m, v = start.clone(), torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
    for g in gradients:
        m = 0.95 * m + 0.05 * g
        o = orthogonal((0.05 * g + 0.95 * m).sign())
        v = 0.95 * v + 0.05 * o**2
        step = o / (v.sqrt() + 1e-8)
        w = w - rate * 0.2 * math.sqrt(15) * step / step.norm()
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


def test_vectors_are_adams() -> None:
    config = MuonConfig(adam_factor=0.5)
    for shape in ((6,), (1, 6), (6, 1)):
        start, gradients = random(*shape), [random(*shape, seed=k) for k in (1, 2, 3)]
        p = nn.Parameter(start.clone())
        adam = torch.optim.Adam([p], lr=0.05, betas=(0.9, 0.95), eps=1e-8)
        for gradient in gradients:
            p.grad = gradient.clone()
            adam.step()
        np.testing.assert_allclose(stepped(config, start, gradients, 0.1), p.detach(), rtol=0, atol=1e-13)


def test_blocks_of_parameters() -> None:
    sizes = [3, 4, 10, 25, 1, 2]
    blocks = blocks_of(sizes, 10)
    pieces = [piece for block in blocks for piece in block]
    assert all(sum(end - begin for _, begin, end in block) <= 10 for block in blocks)
    covered = [[(b, e) for k, b, e in pieces if k == parameter] for parameter in range(len(sizes))]
    assert covered == [[(0, 3)], [(0, 4)], [(0, 10)], [(0, 10), (10, 20), (20, 25)], [(0, 1)], [(0, 2)]]
    assert [len(block) for block in blocks] == [2, 1, 1, 1, 3]


def test_filter_without_forgetting_is_linear_regression() -> None:
    """With one block, measurements h·w = y one by one give the minimum of |w − w₀|² + Σ(h·w − y)²."""
    rng = np.random.default_rng(0)
    h, y, start = rng.normal(size=(12, 7)), rng.normal(size=12), rng.normal(size=7)
    parameters = [nn.Parameter(torch.from_numpy(part.copy())) for part in (start[:4].reshape(2, 2), start[4:])]
    kalman = KalmanFilter(KalmanConfig(forgetting=1.0, forgetting_growth=1.0), parameters)
    for row, value in zip(h, y, strict=True):
        now = np.concatenate([p.detach().numpy().ravel() for p in parameters])
        gradient = torch.from_numpy(row)
        kalman.update([gradient[:4].reshape(2, 2), gradient[4:]], value - float(row @ now))
    expected = np.linalg.solve(np.eye(7) + h.T @ h, start + h.T @ y)
    found = np.concatenate([p.detach().numpy().ravel() for p in parameters])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_blocks_share_one_gain_and_forgetting_goes_to_one() -> None:
    parameters = [nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2)]
    kalman = KalmanFilter(KalmanConfig(block_size=2), parameters)
    h = [torch.tensor([1.0, 2.0], dtype=torch.float64), None]
    kalman.update(h, 0.5)
    weight = 1 / (2 * 0.98 + 5)
    assert parameters[0].tolist() == pytest.approx([0.5 * weight, weight])
    assert parameters[1].tolist() == [0.0, 0.0]
    expected = (np.eye(2) - weight * np.outer([1, 2], [1, 2])) / 0.98
    np.testing.assert_allclose(kalman.covariances[0], expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(kalman.covariances[1], np.eye(2) / 0.98, rtol=0, atol=1e-14)
    assert kalman.forgetting == pytest.approx(0.98 * 0.9987 + 0.0013)


def test_filter_asks_for_memory_before_it_takes_it() -> None:
    large = nn.Parameter(torch.empty(2**21))
    with pytest.raises(SetupError, match=r"LKF needs 3\.28e\+04 GiB .* lower optimizer.block_size \(now 2097152\)"):
        KalmanFilter(KalmanConfig(block_size=2**21), [large])


def test_factors_and_chosen_atoms() -> None:
    assert factor((1.0, 100.0), 0.5) == pytest.approx(10.0)
    assert factor((0.0, 0.0), 0.5) == 0.0
    rows = torch.arange(3, 40)
    one, other = chosen_atoms(1, 5, 0, rows, 6), chosen_atoms(1, 5, 1, rows, 6)
    assert one.tolist() == sorted(set(one.tolist()) & set(rows.tolist()))
    assert len(one) == 6
    assert one.tolist() == chosen_atoms(1, 5, 0, rows, 6).tolist() != other.tolist()
    assert chosen_atoms(1, 5, 0, rows[:4], 6).tolist() == [3, 4, 5, 6]


CASES: dict[str, dict[str, Any]] = {
    "Adam": {"optimizer": {"type": "Adam"}, "learning_rate": {"start": 0.03}},
    "Muon": {"optimizer": {"type": "Muon"}, "learning_rate": {"start": 0.05}, "precision": "float32"},
    "AdaMuon": {"optimizer": {"type": "AdaMuon"}, "learning_rate": {"start": 0.05}, "ema": 0.9},
    "LKF": {"optimizer": {"type": "LKF", "block_size": 200}, "batch_size": 2, "precision": "float32", "steps": 12},
}


@pytest.mark.parametrize("name", CASES)
def test_learns_and_goes_on_bit_for_bit(name: str, emt: Path, tmp_path: Path, settings: Settings) -> None:
    options = {
        "steps": 60, "validate_every": 12, "checkpoint_every": 100, "log_every": 1,
        "loss": {"energy": [1, 1], "forces": [1, 1]},
    }  # fmt: skip
    config = settings(**{**options, **CASES[name]})
    data = {"train_data": emt / "train", "valid_data": emt / "valid"}
    whole = train(config, tmp_path / "whole", **data)
    with whole.curve.open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < 0.6 * np.mean(losses[:third])
    asked, stride = 0, config.total_steps // 4

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % stride == 0

    broken = 0
    for _ in range(10):
        try:
            part = train(config, tmp_path / "part", **data, stop=stop)
            break
        except Interrupted:
            broken += 1
    assert broken >= 2
    for kind in ("best", "last"):
        assert state_digest(load_model(getattr(whole, kind))) == state_digest(load_model(getattr(part, kind)))
    assert part.curve.read_bytes() == whole.curve.read_bytes()
    one, other = load_state(whole.checkpoint), load_state(part.checkpoint)
    assert all(torch.equal(tensor, other.model[key]) for key, tensor in one.model.items())


def test_filter_shows_no_learning_rate(emt: Path, tmp_path: Path, settings: Settings) -> None:
    result = train(settings(optimizer={"type": "LKF"}, loss={}, steps=1), tmp_path, train_data=emt / "train")
    with result.curve.open(newline="") as file:
        assert [row["learning_rate"] for row in csv.DictReader(file)] == [""]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"learning_rate": {"start": 0.1}}, "learning_rate has no effect"),
        ({"gradient_max_norm": 1.0}, "gradient_max_norm has no effect"),
        ({"accumulate": 2}, "accumulate has no effect"),
        ({"loss": {"virial": 1}}, "energies and forces only, found virial"),
        ({"loss": {"type": "dos"}}, "energies and forces only, found"),
        ({"optimizer": {"type": "LKF", "energy": [0, 1]}}, "make both zero or none"),
        ({"optimizer": {"type": "LKF", "energy": [0, 0], "forces": [0, 0]}}, "both off"),
        ({"optimizer": {"type": "Muon", "scaling": "aspect", "coefficient": 1}}, "coefficient has no effect"),
    ],
)
def test_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**{"steps": 10, "optimizer": {"type": "LKF"}, **declared})


def test_filter_stops_where_a_label_is_not_finite(emt: Path, tmp_path: Path, settings: Settings) -> None:
    """A model that has blown up stops with the sentence of all trainings."""
    config = settings(optimizer={"type": "LKF"}, loss={}, steps=2)
    model = resolve_model(config, TYPE_MAP).build(0)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(
        StageError, match=r"the loss is nan .* expected finite numbers; the batch holds .*another optimizer"
    ):
        train(config, tmp_path, train_data=emt / "train", init_model=model)


class Ragged:
    """Frames of two sizes, some without virial, and steps on them."""

    def __init__(self, folder: Path, make: MakeFrames, config: TrainConfig) -> None:
        frames = make(2, 3) + make(2, 4, labels=("energy", "forces")) + make(3, 5)
        write_mixed(frames, folder / "data", TYPE_MAP)
        self.config = config
        self.frames = FrameSet(folder / "data", TYPE_MAP)

    def gradient(self, *batches: list[int]) -> tuple[float, torch.Tensor]:
        """Loss and gradient that a step with these batches finds."""
        model = resolve_model(self.config, TYPE_MAP).build(1)
        maker, loss = BatchMaker.for_model(self.frames, model), make_loss(self.config.loss, model)
        parameters = list(model.parameters())
        outcome = make_step(self.config, loss, parameters, Clock())([maker(batch) for batch in batches], 0)
        return outcome.loss, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_batches_of_a_step_are_one_batch(tmp_path: Path, emt_frames: MakeFrames, settings: Settings) -> None:
    ragged = Ragged(tmp_path, emt_frames, settings(precision="float64", gradient_max_norm=0.0))
    whole, expected = ragged.gradient([0, 1, 2, 3, 4, 5, 6])
    for parts in ([[0, 1, 2], [3, 4, 5, 6]], [[0], [1, 2, 3], [4, 5], [6]], [[2, 3], [0, 1, 4, 5, 6]]):
        loss, found = ragged.gradient(*parts)
        assert loss == pytest.approx(whole, rel=1e-12)
        assert ((found - expected).norm() / expected.norm()).item() < 1e-12
    assert (ragged.gradient([0, 1])[1] - expected).norm() > 1e-3 * expected.norm()


def test_shares_of_batches(tmp_path: Path, emt_frames: MakeFrames, settings: Settings) -> None:
    ragged = Ragged(tmp_path, emt_frames, settings())
    model = resolve_model(ragged.config, TYPE_MAP).build(1)
    maker, loss = BatchMaker.for_model(ragged.frames, model), make_loss(ragged.config.loss, model)
    numbers = [ragged.frames[i].n_atoms for i in range(4)]
    has = ["virial" in ragged.frames[i].labels for i in range(4)]
    union = Joint().union(loss, Head(), [maker([0, 1, 2]), maker([3])], None)
    assert union.sums is not None
    found = {name: sums.number for name, sums in union.sums.items()}
    assert found == {"energy": 4, "forces": 3 * sum(numbers), "virial": 9 * sum(has)}


def test_accumulated_training_is_that_of_larger_batches(emt: Path, tmp_path: Path, settings: Settings) -> None:
    common = {"steps": 5, "log_every": 1, "validate_every": 5}
    one = train(settings(batch_size=4, **common), tmp_path / "one", train_data=emt / "train")
    two = train(settings(batch_size=2, accumulate=2, **common), tmp_path / "two", train_data=emt / "train")
    found, expected = (np.genfromtxt(r.curve, delimiter=",", skip_header=1, usecols=range(6)) for r in (two, one))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_step_that_is_not_finite_leaves_the_parameters(
    tmp_path: Path, emt_frames: MakeFrames, settings: Settings
) -> None:
    ragged = Ragged(tmp_path, emt_frames, settings())
    model = resolve_model(ragged.config, TYPE_MAP).build(1)
    parameters = list(model.parameters())
    step = GradientStep(ragged.config, make_loss(ragged.config.loss, model), parameters, Clock())
    batch = BatchMaker.for_model(ragged.frames, model)([0])
    batch.labels["energy"].values.fill_(math.nan)
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(NotFiniteError):
        step([batch], 0)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_muon_is_a_torch_optimizer() -> None:
    assert isinstance(build_optimizer(MuonConfig(), [nn.Parameter(torch.zeros(2, 2))]), Muon)
