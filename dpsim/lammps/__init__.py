"""LAMMPS with ``pair_style dpsim``: start it from Python, find its programs, check an installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Check", "diagnose", "lammps_command", "start"]

if TYPE_CHECKING:
    from dpsim.lammps.doctor import Check, diagnose
    from dpsim.lammps.launcher import lammps_command
    from dpsim.lammps.session import start

_LAZY = {"Check": "doctor", "diagnose": "doctor", "lammps_command": "launcher", "start": "session"}


def __getattr__(name: str) -> Any:
    """Import on first use: LAMMPS asks this package for the plugin's folder whenever it starts."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"dpsim.lammps.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'dpsim.lammps' has no attribute {name!r}")
