"""Descriptors in DeePMD-kit's files: one module a family."""
