"""Learnable blocks without geometry: linear maps, residual networks, type embedding, activations."""
