"""Section ``optimizer`` of DeePMD-kit's input, as that of dpsim's `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpsim.errors import ConfigError
from dpsim.model.peer.family import Settings
from dpsim.model.peer.section import InputSection

KALMAN_TERMS = ("energy", "forces")
"""Terms of the loss that the Kalman filter looks at."""


def optimizer_settings(section: InputSection, notes: list[str]) -> Settings:
    """Settings of dpsim's ``optimizer``.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    kind = section.take("type", "Adam")
    if kind not in _KINDS:
        raise ConfigError(f"{section.where}.type: {kind!r} is not supported: use one of {', '.join(_KINDS)}")
    settings = _KINDS[kind](kind, section, notes)
    section.finish()
    return settings


def for_kalman(settings: Settings, where: str, notes: list[str]) -> Settings:
    """Settings of a training with ``LKF``: what makes no difference to it is left out."""
    notes.append(f"{where}: learning_rate: makes no difference with the optimizer LKF")
    if settings["gradient_max_norm"]:
        notes.append(f"{where}: gradient_max_norm: makes no difference with the optimizer LKF")
    loss = dict(settings["loss"])
    for name, pair in loss.items():
        weighs = isinstance(pair, list) and len(pair) == 2 and pair != [0.0, 0.0]
        if weighs and name not in KALMAN_TERMS and name != "huber_delta":
            notes.append(f"{where}: {name}: is off, as the optimizer LKF takes energies and forces only")
            loss[name] = [0.0, 0.0]
    left = {key: value for key, value in settings.items() if key not in ("learning_rate", "gradient_max_norm")}
    return {**left, "loss": loss}


def _betas(section: InputSection, second: float) -> list[Any]:
    return [section.take("adam_beta1", 0.9), section.take("adam_beta2", second)]


def _adam(kind: str, section: InputSection, notes: list[str]) -> Settings:
    betas, decay = _betas(section, 0.999), section.take("weight_decay", None)
    if decay is None and kind == "AdamW":
        decay = 1e-3
        notes.append(f"{section.where}.weight_decay: 0.001 is taken, as documented; DeePMD-kit 3.2.0 takes 0")
    return {"type": kind, "betas": betas, "weight_decay": 0.0 if decay is None else decay}


def _muon(kind: str, section: InputSection, notes: list[str]) -> Settings:
    adjust, coefficient = (0.0, 0.18) if kind == "HybridMuon" else (10.0, 0.2)
    adjust = section.take("lr_adjust", adjust)
    coefficient = section.take("lr_adjust_coeff", coefficient)
    section.require(muon_mode="slice", muon_2d_only=True)
    smallest = section.take("min_2d_dim", 1)
    if section.take("magma_muon", None):
        raise ConfigError(f"{section.where}.magma_muon: this damping is not supported: write false")
    if kind == "HybridMuon":
        notes.append(f"{section.where}.type: matrices move without DeePMD-kit's damping magma_muon")
    section.ignore("enable_gram", "flash_muon")  # how the same is computed
    settings: Settings = {
        "type": "Muon" if kind == "HybridMuon" else kind,
        "momentum": section.take("momentum", 0.95, alias=("muon_momentum",)),
        "betas": _betas(section, 0.95),
        "weight_decay": section.take("weight_decay", 1e-3),
        "smallest_matrix": max(2, smallest),
    }
    if adjust > 0:
        return settings | {"scaling": "aspect", "adam_factor": 1 / adjust}
    return settings | {"scaling": "rms", "coefficient": coefficient}


def _kalman(kind: str, section: InputSection, notes: list[str]) -> Settings:
    return {
        "type": kind,
        "block_size": section.take("kf_blocksize", 5120),
        "energy": [section.take(f"kf_{end}_pref_e", 1.0) for end in ("start", "limit")],
        "forces": [section.take(f"kf_{end}_pref_f", 1.0) for end in ("start", "limit")],
    }


_KINDS: dict[str, Callable[[str, InputSection, list[str]], Settings]] = {
    "Adam": _adam,
    "AdamW": _adam,
    "AdaMuon": _muon,
    "HybridMuon": _muon,
    "LKF": _kalman,
}
