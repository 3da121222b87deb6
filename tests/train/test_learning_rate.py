"""Learning rates by the formulas of the specification, written out here a second time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dpsim.train.config import TrainConfig
from dpsim.train.optimizers.schedule import LearningRate, prefactor


def rate(steps: int, **settings: Any) -> LearningRate:
    return LearningRate(TrainConfig(steps=steps, learning_rate=settings).learning_rate, steps)


def test_exponential_in_stairs() -> None:
    found = rate(1000, start=1e-3, stop=1e-5, decay_steps=10)
    q = (1e-5 / 1e-3) ** (10 / 1000)
    for t in (0, 9, 10, 555, 999):
        assert found(t) == pytest.approx(1e-3 * q ** (t // 10), rel=1e-14)
    assert found(5) == found(9) != found(10)


def test_exponential_smooth_with_its_own_rate_stops_at_the_end() -> None:
    found = rate(1000, start=1e-3, stop=1e-4, decay_steps=10, decay_rate=0.9, smooth=True)
    assert found(7) == pytest.approx(1e-3 * 0.9**0.7, rel=1e-14)
    assert found(999) == 1e-4


@pytest.mark.parametrize(("steps", "stairs"), [(50, 1), (400, 5), (1000, 11), (1010, 100), (2000, 100), (5000, 100)])
def test_too_long_stairs_are_shortened(steps: int, stairs: int) -> None:
    """Stairs not shorter than the training become 100 steps, or a hundredth of a short training."""
    found = rate(steps, start=1e-3, stop=3.51e-8)
    assert found(stairs - 1) == 1e-3
    assert found(stairs) == pytest.approx(1e-3 * (3.51e-8 / 1e-3) ** (stairs / steps), rel=1e-12)


def test_published_example_of_the_reference() -> None:
    """2000 steps with the default stairs: the factor is 0.599 every 100 steps."""
    found = rate(2000, start=1e-3, stop=3.51e-8)
    assert found(100) / found(0) == pytest.approx(0.599, abs=5e-4)
    assert found(99) == 1e-3


def test_cosine() -> None:
    found = rate(100, type="cosine", start=1e-3, stop=1e-5)
    for t in (0, 30, 99):
        assert found(t) == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2 * (1 + math.cos(math.pi * t / 100)), rel=1e-14)
    assert found(100) == found(1000) == 1e-5


@pytest.mark.parametrize("kind", ["exp", "cosine"])
def test_warmup_shifts_the_decay(kind: str) -> None:
    found = rate(110, type=kind, start=1e-3, stop=1e-5, warmup_steps=10, warmup_start_factor=0.1)
    plain = rate(100, type=kind, start=1e-3, stop=1e-5)
    assert found(0) == pytest.approx(1e-4)
    assert found(4) == pytest.approx(1e-4 + 9e-4 * 0.4, rel=1e-14)
    assert [found(t + 10) for t in range(100)] == [plain(t) for t in range(100)]
    ratio = rate(110, type=kind, start=1e-3, stop=1e-5, warmup_ratio=10.5 / 110)
    assert (ratio.warmup, ratio(0)) == (10, 0.0)


def test_warmup_alone() -> None:
    found = rate(10, start=1e-3, warmup_steps=10)
    assert [found(t) for t in (0, 5, 10)] == pytest.approx([0.0, 5e-4, 1e-3])


def test_final_rate() -> None:
    assert rate(10, start=1e-3, stop_ratio=0.2).config.final == pytest.approx(2e-4)
    assert rate(10, start=1e-3).config.final == pytest.approx(1e-5)


def test_weights_follow_the_rate() -> None:
    assert prefactor((1000.0, 1.0), 1.0) == 1000.0
    assert prefactor((1000.0, 1.0), 0.0) == 1.0
    assert prefactor((0.2, 20.0), 0.37) == pytest.approx(12.674)
    assert rate(10, start=2e-3).fraction(0) == 1.0


@pytest.mark.parametrize("kind", ["inverse_linear", "cosine", "linear"])
@pytest.mark.parametrize(("steps", "warmup", "ratio"), [(100, 0, 0.1), (103, 7, 0.25), (20, 0, 0.01), (10, 8, 0.9)])
def test_stable_then_decay(kind: str, steps: int, warmup: int, ratio: float) -> None:
    """wsd: the decay is a part of all steps, at least one and no more than there are after the warm-up."""
    high, low = 1e-3, 1e-5
    found = rate(steps, type="wsd", start=high, stop=low, warmup_steps=warmup, decay_phase_ratio=ratio, decay_type=kind)
    length = min(max(int(ratio * steps), 1), steps - warmup)
    for t in range(warmup, steps):
        x = max(0.0, (t - (steps - length)) / length)
        expected = {
            "inverse_linear": 1 / (x / low + (1 - x) / high),
            "cosine": low + (high - low) / 2 * (1 + math.cos(math.pi * x)),
            "linear": high + (low - high) * x,
        }[kind]
        assert found(t) == pytest.approx(expected, rel=1e-13)
    assert found(steps) == found(steps + 5) == low
    assert all(found(t) == pytest.approx(high * t / warmup) for t in range(warmup))


def test_rates_by_number_of_processes() -> None:
    plain = rate(100, start=1e-3, warmup_steps=10)
    for how, factor in (("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)):
        config = TrainConfig(steps=100, learning_rate={"start": 1e-3, "warmup_steps": 10, "scale_by_worker": how})
        scaled = LearningRate(config.learning_rate, 100, workers=4)
        assert [scaled(t) for t in (3, 20, 99)] == [factor * plain(t) for t in (3, 20, 99)]
        assert [scaled.fraction(t) for t in (3, 20)] == [plain.fraction(t) for t in (3, 20)]
        assert LearningRate(config.learning_rate, 100)(20) == plain(20)
