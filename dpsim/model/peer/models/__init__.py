"""Models in DeePMD-kit's files: one descriptor and one fitting, and what is made of several."""
