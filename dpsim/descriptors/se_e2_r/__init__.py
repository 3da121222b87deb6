"""DeepPot-SE with radial information alone."""
