"""Sections ``learning_rate`` and ``loss`` of DeePMD-kit's input, as those of dpsim's `TrainConfig`."""

from __future__ import annotations

from dpsim.errors import ConfigError
from dpsim.model.peer.family import Settings
from dpsim.model.peer.inputs.losses import OTHERS, other_loss
from dpsim.model.peer.section import InputSection

_TERMS = {
    "energy": ("e", 0.02, 1.0),
    "forces": ("f", 1000.0, 1.0),
    "virial": ("v", 0.0, 0.0),
    "atomic_energy": ("ae", 0.0, 0.0),
    "weighted_forces": ("pf", 0.0, 0.0),
    "generalized_forces": ("gf", 0.0, 0.0),
    "hessian": ("h", 0.0, 0.0),
}
_SPIN_TERMS = {
    "energy": ("e", 0.02, 1.0),
    "forces": ("fr", 1000.0, 1.0),
    "magnetic_forces": ("fm", 10000.0, 10.0),
    "virial": ("v", 0.0, 0.0),
    "atomic_energy": ("ae", 0.0, 0.0),
}
_STOP = 1e-8  # of v2 and v3.0, where the last learning rate may be left out


def learning_rate_settings(section: InputSection) -> Settings:
    """Settings of dpsim's ``learning_rate``.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    kind = section.take("type", "exp")
    stop, ratio = section.take("stop_lr", None), section.take("stop_lr_ratio", None)
    settings: Settings = {"type": kind, "start": section.take("start_lr", 1e-3)}
    settings |= (
        {"stop_ratio": ratio} if ratio is not None and stop is None else {"stop": _STOP if stop is None else stop}
    )
    if ratio is not None and stop is not None:
        raise ConfigError(f"{section.where}: stop_lr and stop_lr_ratio exclude each other: give one of them")
    defaults: Settings = {"warmup_steps": 0, "warmup_ratio": None, "warmup_start_factor": 0.0}
    defaults["scale_by_worker"] = "none"  # DeePMD-kit with torch does not scale, whatever its default says
    if kind == "exp":
        defaults |= {"decay_steps": 5000, "decay_rate": None, "smooth": False}
    elif kind == "wsd":
        defaults |= {"decay_phase_ratio": 0.1, "decay_type": "inverse_linear"}
    settings |= {key: value for key, default in defaults.items() if (value := section.take(key, default)) != default}
    section.finish()
    return settings


def loss_settings(section: InputSection, notes: list[str]) -> Settings:
    """Settings of dpsim's ``loss``.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    kind = section.take("type", "ener")
    if kind in OTHERS:
        return other_loss(kind, section, notes)
    if kind not in ("ener", "ener_hess", "ener_spin"):
        raise ConfigError(f"{section.where}.type: {kind!r} is not supported: use ener, ener_spin, {', '.join(OTHERS)}")
    with_spins = kind == "ener_spin"
    settings: Settings = {}
    for name, (letter, start, limit) in (_SPIN_TERMS if with_spins else _TERMS).items():
        pair = [section.take(f"start_pref_{letter}", start), section.take(f"limit_pref_{letter}", limit)]
        if (pair[0] == 0) != (pair[1] == 0) and name != "hessian":
            notes.append(f"{section.where}: start_pref_{letter} or limit_pref_{letter} is zero: the term is off")
            pair = [0.0, 0.0]
        settings[name] = pair
    function, huber = section.take("loss_func", "mse"), not with_spins and section.take("use_huber", False)
    if function not in ("mse", "mae") or (huber and function != "mse"):
        raise ConfigError(f"{section.where}.loss_func: {function!r} with use_huber {huber} is not supported")
    settings["type"] = "huber" if huber else function
    settings["intensive"] = section.take("intensive_ener_virial", False)
    if settings["intensive"] and settings["type"] != "mse":
        notes.append(f"{section.where}.intensive_ener_virial: has no effect on errors that are not squared")
        settings["intensive"] = False
    settings["energy_coefficients"] = section.take("enable_atom_ener_coeff", False)
    if not with_spins:
        settings |= _force_settings(section, huber, settings["weighted_forces"] != [0.0, 0.0])
    section.finish()
    return settings


def _force_settings(section: InputSection, huber: bool, weighted: bool) -> Settings:
    """What a loss without spins may do with forces."""
    delta, default_weight = section.take("huber_delta", 0.01), section.take("use_default_pf", False)
    section.ignore("numb_generalized_coord")  # the labels have it
    found: Settings = {"huber_delta": delta} if huber else {}
    return found | {
        "force_norm": section.take("f_use_norm", False),
        "relative_forces": section.take("relative_f", None),
        "default_force_weight": default_weight and weighted,
    }
