"""Atomic dipoles."""
