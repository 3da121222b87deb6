"""A workflow for other programs to run."""
