"""Models: descriptor, fitting and bias together, their derivatives, and their files."""
