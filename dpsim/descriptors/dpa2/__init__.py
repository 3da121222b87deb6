"""DPA-2: embedded environments, then layers that update atoms and pairs of atoms."""
