"""Atomic polarizabilities."""
