"""Version of dpsim."""

__version__ = "0.1.0"
