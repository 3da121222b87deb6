"""Optimizers, schedules and ways to run a training in DeePMD-kit's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpsim.errors import ConfigError
from dpsim.model.peer.inputs.input import TrainingInput, is_part, translate, translate_part
from dpsim.train.config import TrainConfig

TREE = {
    "model": {
        "type_map": ["O", "H"],
        "descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [4, 8], "neuron": [4, 8]},
        "fitting_net": {"neuron": [8, 8]},
    },
    "learning_rate": {"start_lr": 1e-3, "stop_lr": 1e-5},
    "loss": {"start_pref_v": 0.1, "limit_pref_v": 1.0},
    "training": {"training_data": {"systems": ["a"]}, "numb_steps": 1000},
}


def read(tmp_path: Path, **sections: Any) -> tuple[TrainingInput, TrainConfig]:
    """The input with other sections; those of ``training`` are added."""
    training = {**TREE["training"], **sections.pop("training", {})}
    if "numb_epoch" in training:
        del training["numb_steps"]
    tree = {**TREE, **sections, "training": training}
    found = translate({key: dict(value) for key, value in tree.items()}, "input.json", tmp_path)
    return found, TrainConfig.model_validate(found.settings)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"type": "HybridMuon"}, {"type": "Muon", "rms": 0.18, "momentum": 0.95, "betas": (0.9, 0.95)}),
        ({"type": "HybridMuon", "lr_adjust_coeff": 0.2, "muon_momentum": 0.9}, {"rms": 0.2, "momentum": 0.9}),
        ({"type": "HybridMuon", "lr_adjust": 4.0}, {"scaling": "aspect", "adam_factor": 0.25}),
        ({"type": "AdaMuon"}, {"type": "AdaMuon", "scaling": "aspect", "adam_factor": 0.1, "weight_decay": 1e-3}),
        ({"type": "AdaMuon", "lr_adjust": 0, "adam_beta2": 0.99}, {"rms": 0.2, "betas": (0.9, 0.99)}),
        ({"type": "HybridMuon", "min_2d_dim": 8, "magma_muon": False, "flash_muon": True}, {"smallest_matrix": 8}),
        ({"type": "AdamW", "weight_decay": 0.1}, {"type": "AdamW", "decay": 0.1}),
    ],
)
def test_optimizers(tmp_path: Path, section: dict[str, Any], expected: dict[str, Any]) -> None:
    optimizer = read(tmp_path, optimizer=section)[1].optimizer
    assert {key: getattr(optimizer, key) for key in expected} == expected


def test_kalman_filter(tmp_path: Path) -> None:
    section = {"type": "LKF", "kf_blocksize": 100, "kf_start_pref_e": 0.1, "kf_limit_pref_f": 2.0}
    found, config = read(tmp_path, optimizer=section, training={"gradient_max_norm": 5.0})
    assert config.optimizer.model_dump()["block_size"] == 100
    assert (config.optimizer.energy, config.optimizer.forces) == ((0.1, 1.0), (1.0, 2.0))
    assert list(config.loss.active) == ["energy", "forces"]
    (text,) = [note for note in found.notes if "no difference" in note]
    assert "learning_rate" in text
    assert "gradient_max_norm" in text
    assert any("virial" in note and "energies and forces only" in note for note in found.notes)


def test_wsd_and_workers(tmp_path: Path) -> None:
    rate = {"type": "wsd", "start_lr": 1e-3, "stop_lr_ratio": 0.1, "decay_phase_ratio": 0.3, "decay_type": "cosine"}
    _, config = read(tmp_path, learning_rate=rate)
    found = config.learning_rate
    assert (found.type, found.decay_phase_ratio, found.decay_type, found.final) == ("wsd", 0.3, "cosine", 1e-4)
    assert found.scale_by_worker == "none"
    _, config = read(tmp_path, learning_rate={"start_lr": 1e-3, "scale_by_worker": "sqrt"})
    assert config.learning_rate.scale_by_worker == "sqrt"


def test_epochs_averages_and_what_is_watched(tmp_path: Path) -> None:
    training = {"numb_epoch": 2.5, "enable_ema": True, "ema_decay": 0.99, "ema_ckpt_keep": 3, "tensorboard": True,
                "enable_tf32": True, "enable_compile": True}  # fmt: skip
    found, config = read(tmp_path, training=training)
    assert (config.steps, config.epochs, config.ema, config.tensorboard) == (None, 2.5, 0.99, True)
    assert (config.matrix_products, config.compile) == ("tf32", True)
    assert any("enable_ema" in note and "averages" in note for note in found.notes)
    _, plain = read(tmp_path, training={"ema_decay": 0.99})
    assert (plain.ema, plain.tensorboard, plain.matrix_products, plain.compile) == (None, False, "full", "auto")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("E:MAE", "energy:mae"), ("f:rmse", "forces:rmse"), ("V:MAE", "virial:mae"), ("FM:MAE", "magnetic_forces:mae")],
)
def test_validating(tmp_path: Path, metric: str, expected: str) -> None:
    section = {"full_validation": True, "validation_freq": 70, "validation_metric": metric, "full_val_start": 0.2}
    found, config = read(tmp_path, validating=section)
    assert (config.validate_every, config.validation_metric) == (70, expected)
    assert any("from the beginning" in note for note in found.notes)
    _, off = read(tmp_path, validating={**section, "full_validation": False})
    assert (off.validate_every, off.validation_metric) == (1000, "loss")


def test_neither_steps_nor_epochs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key 'numb_steps' is missing"):
        read(tmp_path, training={"numb_epoch": None})


def test_sections_of_a_stage() -> None:
    assert is_part("optimizer", {"type": "HybridMuon"})
    assert not is_part("optimizer", {"type": "Muon", "momentum": 0.9})
    settings, _ = translate_part("optimizer", {"type": "LKF", "kf_blocksize": 7}, "optimizer", ("O",))
    assert settings["block_size"] == 7
