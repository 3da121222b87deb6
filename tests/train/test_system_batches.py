"""Batches of one system each, with a number of frames for each system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dpsim.errors import ConfigError, Interrupted
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.model.peer.inputs.sampling import sampling_settings
from dpsim.model.peer.section import InputSection
from dpsim.train.batches.drawing import drawing
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.sampler import Sampler
from dpsim.train.config import TrainConfig
from dpsim.train.settings.data import Size, size_of
from dpsim.train.start.length import with_steps
from dpsim.train.trainer import TrainResult, train

Settings = Callable[..., TrainConfig]
TYPE_MAP = ("Cu", "Au")


def run(config: TrainConfig, emt: Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, train_data=emt / "train", valid_data=emt / "valid", **options)


def test_a_batch_is_of_one_pool() -> None:
    pools = [np.arange(5), np.arange(5, 12), np.arange(12, 14)]
    sampler = Sampler(pools, 3, probabilities=[0.5, 0.25, 0.25], sizes=[2, 3, 9])
    drawn = [sampler.next_batch() for _ in range(2000)]
    sizes = {0: 2, 1: 3, 2: 2}  # of the last there are no more
    owner = [next(k for k, pool in enumerate(pools) if batch[0] in pool) for batch in drawn]
    assert all(set(batch) <= set(pools[k]) and len(batch) == sizes[k] for k, batch in zip(owner, drawn, strict=True))
    counts = Counter(owner)
    assert abs(counts[0] - 1000) < 112  # five standard deviations
    assert abs(counts[1] - 500) < 97
    first = [i for k, batch in zip(owner, drawn, strict=True) if k == 1 for i in batch]
    assert all(sorted(first[k : k + 7]) == list(range(5, 12)) for k in range(0, 700, 7)), "without replacement"
    again = Sampler(pools, 3, probabilities=[0.5, 0.25, 0.25], sizes=[2, 3, 9])
    for _ in range(700):
        again.next_batch()
    later = Sampler(pools, 3, probabilities=[0.5, 0.25, 0.25], sizes=[2, 3, 9])
    later.cursor = again.cursor
    assert [later.next_batch() for _ in range(50)] == drawn[700:750]


@pytest.mark.parametrize(
    ("sampling", "chances"),
    [
        ("frames", [3 / 5, 2 / 5]),  # by batches: 12 frames by 4, and by 8
        ("systems", [0.5, 0.5]),
        ({"weights": [0.2, -1]}, [0.2, 0.8]),
        ({"blocks": {"0:2": 1}}, [3 / 5, 2 / 5]),
        ({"weights": [0, 1]}, [1.0]),
    ],
)
def test_systems_are_chosen_by_their_batches(
    emt: Path, settings: Settings, sampling: Any, chances: list[float]
) -> None:
    config = settings(batch_size=[4, 8], sampling=sampling)
    found = drawing(config, FrameSet(emt / "train", TYPE_MAP))
    assert found.probabilities == pytest.approx(chances)
    assert found.sizes == [4, 8][2 - len(chances) :]
    assert found.batches == [3, 2][2 - len(chances) :]


def test_epochs_count_batches(emt: Path, settings: Settings) -> None:
    """Three batches of four and two of eight; a system that is chosen with a fifth needs 15 steps for three batches."""
    frames = FrameSet(emt / "train", TYPE_MAP)
    assert with_steps(settings(batch_size=[4, 8], steps=None, epochs=2), frames).steps == 10
    config = settings(batch_size=[4, 8], steps=None, epochs=2, sampling={"weights": [0.2, 0.8]})
    assert with_steps(config, frames).steps == 30


def test_training_goes_on_bit_for_bit(emt: Path, tmp_path: Path, settings: Settings) -> None:
    config = settings(batch_size=[1, 3], steps=6)
    whole = run(config, emt, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, emt, tmp_path / "parts", stop=lambda: True)
    parts = run(config, emt, tmp_path / "parts")
    assert state_digest(load_model(parts.last)) == state_digest(load_model(whole.last))
    assert whole.metrics["steps"] == 6


def test_refusals(emt: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="batch_size has 3 numbers, but the data hold 2 systems: give one for each"):
        run(settings(batch_size=[1, 2, 3]), emt, tmp_path / "t")
    for value in ([], [0, 1], [True], [1, "auto"]):
        with pytest.raises(ValidationError, match=re.escape(f"{value!r} is no batch size: write a number of frames")):
            settings(batch_size=value)
    assert size_of(settings(batch_size=[1, 4, 2]).batch_size) == Size("systems", 4)
    frames = FrameSet(emt / "train", TYPE_MAP)
    frames._kept = np.arange(12, 24)  # all of the first system are left out
    config = settings(batch_size=[1, 2], sampling={"weights": [0.5, 0.5]})
    with pytest.raises(ConfigError, match=r"system 0 .* has no frames, but is to be drawn from"):
        drawing(config, frames)


def test_list_of_the_peer() -> None:
    section = InputSection({"batch_size": [4, 8, 2], "auto_prob": "prob_uniform"}, "input.json: training_data")
    assert sampling_settings(section, []) == {"batch_size": [4, 8, 2], "sampling": "systems"}
    section = InputSection({"batch_size": [4, 4]}, "input.json: training_data")
    assert sampling_settings(section, [])["batch_size"] == 4
