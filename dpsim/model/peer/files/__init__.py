"""DeePMD-kit's model files: serialised trees, checkpoints, frozen programs."""
