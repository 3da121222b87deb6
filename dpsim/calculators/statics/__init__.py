"""Structures at rest: relaxation, phonons, and properties of solids, with a model or any calculator of ASE."""
