"""Fittings: from the features of an atom to its contribution to a property."""

from dpsim.fittings.energy.config import EnergyFittingConfig

FittingConfig = EnergyFittingConfig
"""Union of all fittings; one member today."""

__all__ = ["EnergyFittingConfig", "FittingConfig"]
