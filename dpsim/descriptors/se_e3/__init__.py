"""DeepPot-SE with an embedding of the angles between neighbours."""
