"""DeepPot-SE with full (radial and angular) information on pairs."""
