"""Data set conversion, labelling, selection and inspection, built on dpdata and ASE."""
