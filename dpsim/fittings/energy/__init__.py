"""Atomic energies."""
