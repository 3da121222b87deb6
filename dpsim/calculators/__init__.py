"""Using a model: evaluation from Python, ASE, data sets and LAMMPS, and the checks made when one is frozen."""
