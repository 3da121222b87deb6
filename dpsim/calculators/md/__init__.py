"""Molecular dynamics: settings, LAMMPS decks, ASE integrators, records that survive a break, results, analysis."""
