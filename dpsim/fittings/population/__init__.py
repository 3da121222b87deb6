"""Electrons of either spin at each atom."""
