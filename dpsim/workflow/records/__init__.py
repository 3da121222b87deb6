"""What is on disk: results by key, the manifest, the events of a run."""
