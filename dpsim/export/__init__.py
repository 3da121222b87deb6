"""From a model to a file that runs without Python: tracing, compiling, metadata."""
