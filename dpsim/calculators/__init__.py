"""Using a model: evaluation from Python, ASE, data sets and LAMMPS, checks of frozen ones, selection of frames."""
