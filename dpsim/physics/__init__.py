"""Geometry without parameters: neighbourhoods, switch functions, derivatives of the energy."""
