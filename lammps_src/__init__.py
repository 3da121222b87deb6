"""C++ sources of the LAMMPS plugin and the custom operators, installed as ``dpsim.cpp``."""
