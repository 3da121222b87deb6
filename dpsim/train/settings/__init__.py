"""Declarations of a training and of what is trained. No torch here: a declaration is checked without it."""
