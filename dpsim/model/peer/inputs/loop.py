"""Length and rhythm of a training in DeePMD-kit's input: sections ``training`` and ``validating``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpsim.errors import ConfigError
from dpsim.model.peer.family import Settings
from dpsim.model.peer.section import InputSection

STEPS = ("numb_steps", "stop_batch", "num_step", "num_steps", "numb_step")
"""Names of the number of steps; the first is the peer's own."""
EPOCHS = ("numb_epoch", "num_epoch", "num_epochs", "numb_epochs")
"""Names of the number of epochs."""
_OFF = {
    "profiling": False, "enable_profiler": False, "mixed_precision": None, "acc_freq": 1,
    "ckpt_keep_ratio": None, "save_dir": None,
}  # fmt: skip
"""Keys of ``training`` that are taken with one value only."""
_SWITCHES: tuple[tuple[str, str, Any], ...] = (
    ("tensorboard", "tensorboard", True),
    ("enable_tf32", "matrix_products", "tf32"),
    ("enable_compile", "compile", True),
)
"""Keys of ``training`` that switch something on, with the setting that does."""
_OWN_FILES = ("disp_file", "save_ckpt", "profiling_file", "tensorboard_log_dir")
_WITHOUT_EFFECT = ("disp_avg", "time_training", "disp_training", "tensorboard_freq", "stat_file_mode",
                   "neighbor_graph_method", "numb_test")  # fmt: skip
_QUANTITIES = {"E": "energy", "F": "forces", "FR": "forces", "FM": "magnetic_forces", "V": "virial"}


def loop_settings(training: InputSection, notes: list[str]) -> Settings:
    """Length, order and rhythm of the training.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    training.require(**_OFF)
    settings: Settings = {
        **_length(training),
        **_averages(training, notes),
        "gradient_max_norm": training.take("gradient_max_norm", 0.0),
        "log_every": training.node.get("disp_freq", 1000),
        "validate_every": training.take("disp_freq", 1000),
        "checkpoint_every": training.take("save_freq", 1000),
        "change_bias_after_training": training.take("change_bias_after_training", False),
    }
    for key, name, wanted in _SWITCHES:
        if training.take(key, False):
            settings[name] = wanted
    for key, name in (("seed", "seed"), ("zero_stage", "zero")):
        value = training.take(key, None)
        if value is not None and (key, value) != ("zero_stage", 0):
            settings[name] = value
    _statistics(training, notes)
    for key in _OWN_FILES:
        if training.take(key, None) is not None:
            notes.append(f"{training.where}.{key}: the files have dpsim's own names")
    for key in _WITHOUT_EFFECT:
        if training.take(key, None) is not None:
            notes.append(f"{training.where}.{key}: makes no difference")
    return settings


def _length(training: InputSection) -> Settings:
    epochs = training.take(EPOCHS[0], None, alias=EPOCHS[1:])
    if epochs is None:
        return {"steps": training.take(STEPS[0], alias=STEPS[1:])}
    if training.take(STEPS[0], None, alias=STEPS[1:]) is not None:
        raise ConfigError(f"{training.where}: numb_steps and numb_epoch exclude each other: give one of them")
    return {"epochs": epochs}


def _averages(training: InputSection, notes: list[str]) -> Settings:
    decay, keep = training.take("ema_decay", 0.999), training.take("ema_ckpt_keep", None)
    if not training.take("enable_ema", False):
        return {}
    notes.append(f"{training.where}.enable_ema: averages are what the model files hold; checkpoints hold both")
    if keep is not None:
        notes.append(f"{training.where}.ema_ckpt_keep: max_ckpt_keep counts, as checkpoints hold both")
    return {"ema": decay}


def _statistics(training: InputSection, notes: list[str]) -> None:
    stat_file = training.take("stat_file", None)
    if stat_file is None:
        return
    if Path(str(stat_file)).exists():
        raise ConfigError(
            f"{training.where}.stat_file: {stat_file} exists, and its statistics are not read: leave the key out "
            "to take them from the data"
        )
    notes.append(f"{training.where}.stat_file: statistics are always taken from the data")


def validating_settings(section: InputSection, notes: list[str]) -> Settings:
    """What the section ``validating`` of 3.2 asks for; all validation frames are evaluated in any case.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    full, averaged = section.take("full_validation", False), section.take("ema_full_validation", False)
    section.require(compiled_infer=False, tf32_infer=False, amp_infer=False)
    taken: dict[str, Any] = {
        "validation_freq": 5000, "validation_metric": "E:MAE", "save_best": True, "save_best_dir": None,
        "max_best_ckpt": 1, "full_val_file": None, "full_val_start": None,
    }  # fmt: skip
    given = {key: section.take(key, default) for key, default in taken.items()}
    section.finish()
    if not full and not averaged:
        return {}
    if given["max_best_ckpt"] != 1:
        raise ConfigError(f"{section.where}.max_best_ckpt: {given['max_best_ckpt']!r}: one best model is kept: write 1")
    for key in ("save_best_dir", "full_val_file"):
        if given[key] is not None:
            notes.append(f"{section.where}.{key}: the files have dpsim's own names")
    if given["full_val_start"] is not None:
        notes.append(f"{section.where}.full_val_start: models are validated from the beginning")
    if not given["save_best"]:
        notes.append(f"{section.where}.save_best: the best model is always kept")
    metric = _metric(str(given["validation_metric"]), section.where)
    return {"validate_every": given["validation_freq"], "validation_metric": metric}


def _metric(text: str, where: str) -> str:
    letter, _, kind = text.upper().partition(":")
    if letter not in _QUANTITIES or kind not in ("MAE", "RMSE"):
        choices = ", ".join(f"{name}:MAE" for name in _QUANTITIES)
        raise ConfigError(f"{where}.validation_metric: {text!r} is not supported: use one of {choices} (or :RMSE)")
    return f"{_QUANTITIES[letter]}:{kind.lower()}"
