"""Commands that look at what is installed, and build what LAMMPS needs."""
