"""From data sets to batches: frames, their order, and neighbourhoods made ahead of the steps."""
