"""The first Deep Potential: neighbours in the local frame of each atom."""
