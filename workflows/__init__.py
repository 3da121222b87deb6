"""Ready-made workflow recipes, installed as ``dpsim.recipes``."""
