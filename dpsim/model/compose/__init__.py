"""Models made of others: tables of pair energies, weighted sums, and interpolation to a short-range table."""
