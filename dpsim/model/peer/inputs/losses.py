"""Losses of DeePMD-kit's input that are not of energies, as dpsim's (spec fittings.md §3.3 to §3.6)."""

from __future__ import annotations

from collections.abc import Callable

from dpsim.errors import ConfigError
from dpsim.model.peer.family import Settings
from dpsim.model.peer.section import InputSection

_DOS = {"dos": "dos", "cumulative": "cdf", "atomic_dos": "ados", "atomic_cumulative": "acdf"}
_POPULATION = {
    "spin": "spin", "total_spin": "spin_total", "populations": "pop", "total_alpha": "pop_alpha_total",
    "total_beta": "pop_beta_total",
}  # fmt: skip


def prefactors(section: InputSection, letters: str, start: float, limit: float, notes: list[str]) -> list[float]:
    """``start_pref_x`` and ``limit_pref_x``; the peer takes a term with one zero as off."""
    pair = [section.take(f"start_pref_{letters}", start), section.take(f"limit_pref_{letters}", limit)]
    if (pair[0] == 0) != (pair[1] == 0):
        notes.append(f"{section.where}: start_pref_{letters} or limit_pref_{letters} is zero: the term is off")
        return [0.0, 0.0]
    return pair


def _tensor(section: InputSection, notes: list[str]) -> Settings:
    total, atomic = section.take("pref"), section.take("pref_atomic")
    weighted = section.take("enable_atomic_weight", False)
    return {"total": total, "atomic": atomic, "atomic_weight": weighted and atomic != 0}


def _dos(section: InputSection, notes: list[str]) -> Settings:
    defaults = {"atomic_dos": 1.0}
    return {
        name: prefactors(section, letters, defaults.get(name, 0.0), defaults.get(name, 0.0), notes)
        for name, letters in _DOS.items()
    }


def _property(section: InputSection, notes: list[str]) -> Settings:
    return _function(section, ("smooth_mae", "mae", "mse", "rmse", "mape"), notes)


def _population(section: InputSection, notes: list[str]) -> Settings:
    terms = {name: prefactors(section, letters, 1.0, 1.0, notes) for name, letters in _POPULATION.items()}
    return terms | _function(section, ("smooth_mae", "mae", "rmse"), notes)


def _function(section: InputSection, known: tuple[str, ...], notes: list[str]) -> Settings:
    """``loss_func`` and ``beta``; what ``metric`` would show is always the root of the mean square."""
    function, beta = section.take("loss_func", "smooth_mae"), section.take("beta", 1.0)
    if function not in known:
        raise ConfigError(f"{section.where}.loss_func: {function!r} is not supported: use one of {', '.join(known)}")
    if section.take("metric", ["mae"]) not in (["mae"], ["rmse"]):
        notes.append(f"{section.where}.metric: has no effect: root mean square errors are shown")
    return {"function": function} | ({"beta": beta} if function == "smooth_mae" else {})


OTHERS: dict[str, Callable[[InputSection, list[str]], Settings]] = {
    "tensor": _tensor,
    "dos": _dos,
    "property": _property,
    "population": _population,
}
"""By the peer's ``type``, which is dpsim's as well."""


def other_loss(kind: str, section: InputSection, notes: list[str]) -> Settings:
    """Settings of a loss that is one of `OTHERS`, whose ``type`` is taken.

    Raises
    ------
    ConfigError
        Naming a key that is not honoured.
    """
    settings = {"type": kind} | OTHERS[kind](section, notes)
    section.finish()
    return settings
