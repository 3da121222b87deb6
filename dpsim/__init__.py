"""dpsim: from electronic-structure data to a running simulation with Deep Potential models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpsim.version import __version__

__all__ = ["DPCalculator", "Potential", "load", "__version__"]

if TYPE_CHECKING:
    from dpsim.calculators.ase import DPCalculator
    from dpsim.calculators.evaluate import Potential, load

_LAZY = {
    "DPCalculator": "dpsim.calculators.ase",
    "Potential": "dpsim.calculators.evaluate",
    "load": "dpsim.calculators.evaluate",
}


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, ASE) only when they are asked for."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dpsim' has no attribute {name!r}")
