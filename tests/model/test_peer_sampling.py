"""What DeePMD-kit's ``training_data`` says about systems, batches and filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpsim.data import Frame, write_npy
from dpsim.errors import ConfigError, DataError
from dpsim.model.peer.inputs.input import translate
from dpsim.model.peer.inputs.sampling import sampling_settings
from dpsim.model.peer.section import InputSection
from dpsim.train.batches.system_shares import system_probabilities
from dpsim.train.settings.data import SystemSampling

SIZES = (10, 30, 60, 100)


def settings(**keys: Any) -> dict[str, Any]:
    section, notes = InputSection(dict(keys), "in: training_data"), []
    found = dict(sampling_settings(section, notes))
    section.finish()
    return found


def test_defaults_are_those_of_the_peer() -> None:
    assert settings() == {"batch_size": "auto", "sampling": "frames"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, 3),
        ([2, 2, 2], 2),
        ("auto:64", "auto:64"),
        ("max:64", "max:64"),
        ("filter:9", "filter:9"),
        ("mix:64", "max:64"),
    ],
)
def test_batch_sizes(given: Any, expected: Any) -> None:
    assert settings(batch_size=given)["batch_size"] == expected


@pytest.mark.parametrize(
    ("given", "mixed"),
    [
        ({}, True),
        ({"batch_size": 4, "systems": ["a", "b"]}, True),
        ({"batch_size": 4, "systems": "a"}, True),
        ({"batch_size": 4, "systems": ["a"], "rglob_patterns": ["*"]}, True),
        ({"batch_size": 4, "systems": ["a"]}, False),
        ({"batch_size": 1, "systems": ["a", "b"]}, False),
        ({"batch_size": [1, 2], "systems": ["a", "b"]}, False),
        ({"batch_size": "mix:64", "systems": ["a", "b"]}, False),
    ],
)
def test_mixing_systems_is_told_where_the_peer_does_not(given: Any, mixed: bool) -> None:
    notes: list[str] = []
    sampling_settings(InputSection(dict(given), "in: training_data"), notes)
    assert any("frames of several systems are mixed in a batch" in note for note in notes) is mixed


def blocks_of_the_peer(text: str, sizes: tuple[int, ...]) -> np.ndarray:
    """Probabilities by the words of spec common.md §15, with batches of one frame."""
    blocks = [tuple(map(float, block.split(":"))) for block in text.split(";")[1:]]
    found = np.zeros(len(sizes))
    for begin, end, weight in blocks:
        part = np.array(sizes[int(begin) : int(end)], float)
        found[int(begin) : int(end)] = weight / sum(w for *_, w in blocks) * part / part.sum()
    return found


@pytest.mark.parametrize(
    "text", ["prob_sys_size;0:3:0.4;3:4:0.6", "prob_sys_size; 1:2:2 ;2:4:1", "prob_sys_size;0:4:1"]
)
def test_blocks_of_systems(text: str) -> None:
    sampling = SystemSampling(**settings(auto_prob=text)["sampling"])
    found = system_probabilities(sampling, ["a", "b", "c", "d"], SIZES)
    np.testing.assert_allclose(found, blocks_of_the_peer(text, SIZES), rtol=1e-12)


def test_other_probabilities() -> None:
    assert settings(auto_prob="prob_uniform")["sampling"] == "systems"
    assert settings(auto_prob_style="prob_sys_size")["sampling"] == "frames"
    weights = SystemSampling(**settings(sys_weights=[0.7, -1, -1, 0.1])["sampling"])
    np.testing.assert_allclose(system_probabilities(weights, ["a"] * 4, SIZES), [0.7, 0.2 / 3, 0.4 / 3, 0.1])
    assert settings(min_pair_dist=0.7)["frame_filter"] == {"min_distance": 0.7}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"auto_prob": "prob_sys_size;0:3"}, r"auto_prob: '0:3' is no block begin:end:weight"),
        ({"auto_prob": "prob_sys_size;0:3:-1"}, r"'0:3:-1' is no block .* weight of at least 0"),
        ({"auto_prob": "prob_sys_size;0:3:x"}, r"'0:3:x' is no block"),
        ({"auto_prob": "prob_sys_size;0:3:1;0:3:2"}, r"the block 0:3 is given twice"),
        ({"auto_prob": "prob_uniform;0:3:1"}, r"auto_prob: 'prob_uniform;0:3:1' is not supported"),
        ({"batch_size": "mixed:8"}, r"batch_size: 'mixed:8' is not supported"),
        ({"min_pair_dist": "1"}, r"min_pair_dist: '1': a distance in Å is expected"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**keys)


def test_systems_that_match_patterns(tmp_path: Path) -> None:
    frame = Frame(np.zeros((1, 3)), np.zeros(1, np.int64), None, {"energy": np.zeros(())})
    for name in ("run1/a", "run1/b", "run2/a"):
        write_npy([frame], tmp_path / "data" / name, ["H"])

    def systems(**keys: Any) -> list[str]:
        data = {"systems": "data", **keys}
        tree = {
            "model": {"type_map": ["H"], "descriptor": {"type": "se_e2_a", "sel": [4]}, "fitting_net": {}},
            "learning_rate": {"start_lr": 1e-3, "stop_lr": 1e-5},
            "training": {"training_data": data, "validation_data": dict(data), "numb_steps": 2},
        }
        found = translate(tree, "input.json", tmp_path)
        assert found.train_systems == found.valid_systems
        return [path.relative_to(tmp_path).as_posix() for path in found.train_systems]

    assert systems() == ["data"]
    assert systems(systems=["data/run*/a"]) == ["data/run*/a"], "opened as a pattern"
    assert systems(rglob_patterns=["a/*"]) == ["data/run1/a/H", "data/run2/a/H"]
    with pytest.raises(DataError, match=r"holds no system that matches c/\*"):
        systems(rglob_patterns=["c/*"])
    with pytest.raises(ConfigError, match=r"training_data\.rglob_patterns: 'a': a list of patterns is expected"):
        systems(rglob_patterns="a")
