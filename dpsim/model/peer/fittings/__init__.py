"""Fitting nets in DeePMD-kit's files: one module a kind."""
